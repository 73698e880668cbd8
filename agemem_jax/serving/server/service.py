"""What the endpoints share: the model behind the scheduler, limits, the embedder."""

import asyncio
import contextlib
import dataclasses
import secrets
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from agemem_jax.memory.embedders import Embedder
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.serving.server import conversation, errors, tool_text
from agemem_jax.serving.server.agent_service import AgentService
from agemem_jax.serving.server.chat_request import Function, Message
from agemem_jax.serving.server.errors import APIError
from agemem_jax.serving.server.metrics import Metrics
from agemem_jax.serving.server.replies import Expected, Reply
from agemem_jax.serving.server.scheduler import Failure, QueueFull, Sampling, Scheduler, Update
from agemem_jax.serving.server.streams import Stream, open_streams
from agemem_jax.serving.server.structured import Schemas


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request may ask for; the queue and the time are the scheduler's.

    Attributes:
      body_bytes: of a request's body.
      body_seconds: until all of it has come.
      max_tokens: of a response; fewer where the engine has no room.
      texts: to embed at once.
    """

    body_bytes: int = 4 * 2**20
    body_seconds: float = 30.0
    max_tokens: int = 4096
    texts: int = 256


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request for answers, whichever endpoint it came by; fields as in `ChatRequest`."""

    messages: Sequence[Message]
    functions: Sequence[Function] = ()
    tool_choice: str = "auto"  # or a function's name after "="
    one_call: bool = False
    schema: dict[str, Any] | None = None
    schema_param: str = "response_format"
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()
    n: int = 1


class Answers:
    """The answers to one request as they come."""

    def __init__(self, prompt_tokens: int, streams: list[Stream], replies: list[Reply], metrics):
        self.prompt_tokens = prompt_tokens
        self.replies = replies
        self._streams, self._metrics = streams, metrics

    async def updates(self) -> AsyncIterator[tuple[int, Update, str]]:
        """Which answer has something new, the update, and its new text.

        Raises:
          APIError: one of them failed; the others are ended.
        """
        began, first = time.monotonic(), True
        merged: asyncio.Queue[tuple[int, Update | Failure]] = asyncio.Queue()

        async def forward(index: int, stream: Stream) -> None:
            try:
                async for update in stream.updates():
                    merged.put_nowait((index, update))
            except Failure as failure:
                merged.put_nowait((index, failure))

        tasks = [asyncio.create_task(forward(i, s)) for i, s in enumerate(self._streams)]
        left = len(tasks)
        try:
            while left:
                index, update = await merged.get()
                if isinstance(update, Failure):
                    raise errors.of_failure(update)
                if first:
                    first = False
                    self._metrics.first_token.observe(time.monotonic() - began)
                left -= update.done
                try:
                    text = self.replies[index].take(update)
                except Failure as failure:
                    raise errors.of_failure(failure) from failure
                yield index, update, text
            self._metrics.count(self.prompt_tokens, self.replies, time.monotonic() - began)
        finally:
            for task in tasks:
                task.cancel()
            self.close()

    async def wait(self) -> list[list[dict[str, Any]]]:
        """Reads all answers to their ends; returns the log-probabilities of each."""
        log_probs: list[list[dict[str, Any]]] = [[] for _ in self.replies]
        async with contextlib.aclosing(self.updates()) as updates:
            async for index, update, _ in updates:
                log_probs[index] += self.replies[index].log_probs(update)
        return log_probs

    def close(self) -> None:
        """Frees the slots of what still runs."""
        for stream in self._streams:
            stream.close()


class Service:
    """A model that answers conversations."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        chat: ChatEncoder,
        schemas: Schemas,
        embedder: Embedder,
        embedder_name: str,
        limits: Limits | None = None,
        agent: AgentService | None = None,
    ):
        """A service; the scheduler is started by whoever serves.

        Args:
          name: by which clients ask for the model.
          scheduler: with the model's weights.
          chat: of the model.
          schemas: of the model's tokenizer.
          embedder: of the memory.
          embedder_name: by which clients ask for it.
          limits: of requests.
          agent: the same model as an agent with memories that last.
        """
        self.name, self.scheduler, self.chat, self.schemas = name, scheduler, chat, schemas
        self.embedder, self.embedder_name = embedder, embedder_name
        self.limits, self.agent = limits or Limits(), agent
        self.metrics = Metrics(scheduler)
        self.began = int(time.time())
        self.embedding = threading.Lock()  # embedders keep caches
        self._encoding = threading.Lock()  # so do tokenizers

    @property
    def names(self) -> tuple[str, ...]:
        """What clients may ask for: the model, the embedder, the agent."""
        agent = () if self.agent is None else (self.agent.name,)
        return (self.name, self.embedder_name, *agent)

    async def answer(self, ask: Ask) -> Answers:
        """Submits what is asked for.

        Raises:
          APIError: it cannot be answered, or not now.
        """
        requests, expected = await asyncio.to_thread(self._prepare, ask)
        try:
            streams = open_streams(self.scheduler, requests)
        except QueueFull as error:
            raise errors.busy(error, self.metrics.wait_estimate()) from error
        replies = [Reply(self.chat, expected) for _ in streams]
        return Answers(len(requests[0][0]), streams, replies, self.metrics)

    def _prepare(self, ask: Ask) -> tuple[list[tuple[tuple[int, ...], Sampling]], Expected]:
        """The engine's requests, one for each answer, and how to read these."""
        functions = _chosen(ask)
        forced = bool(functions) and ask.tool_choice not in ("auto", "none")
        schema, param = ask.schema, ask.schema_param
        if forced:
            schema, param = tool_text.schema_of_call(functions), "tools"
        grammar = None
        if schema is not None:
            try:
                grammar = self.schemas.compile(schema)
            except ValueError as error:
                raise APIError(400, str(error), param=param, code="invalid_schema") from error
        with self._encoding:
            ids = conversation.prompt(self.chat, ask.messages, functions, forced=forced)
        max_tokens = self._room(len(ids), ask.max_tokens)
        seed = secrets.randbits(31) if ask.seed is None else ask.seed
        sampling = Sampling(
            max_tokens, seed,
            temperature=1.0 if ask.temperature is None else ask.temperature,
            top_k=ask.top_k or 0,
            top_p=1.0 if ask.top_p is None else ask.top_p,
            stop=() if grammar is not None else ask.stops,
        )  # fmt: skip
        expected = Expected(
            frozenset(function.name for function in functions), forced,
            ask.one_call, grammar is not None, sampling.stop,
        )  # fmt: skip
        requests = []
        for index in range(ask.n):
            own = None if grammar is None else self.schemas.constraint(grammar, max_tokens)
            changed = dataclasses.replace(sampling, seed=seed + index, constraint=own)
            requests.append((ids, changed))
        return requests, expected

    def _room(self, prompt: int, asked: int | None) -> int:
        """How many tokens a response may have."""
        length = self.scheduler.engine.config.max_length
        if prompt >= length:
            raise APIError(
                400,
                f"The conversation has {prompt} tokens, and this server holds {length}, the answer "
                "included; send less.",
                param="messages", code="context_length_exceeded",
            )  # fmt: skip
        most = min(length - prompt, self.limits.max_tokens)
        return most if asked is None else min(asked, most)


def _chosen(ask: Ask) -> Sequence[Function]:
    """The functions that the model is told of."""
    names = [function.name for function in ask.functions]
    if len(set(names)) != len(names):
        raise APIError(400, "tools: two functions have one name.", param="tools")
    if ask.tool_choice in ("auto", "none", "required"):
        if ask.tool_choice == "required" and not names:
            raise APIError(400, "tool_choice needs tools.", param="tool_choice")
        return () if ask.tool_choice == "none" else ask.functions
    wanted = ask.tool_choice.removeprefix("=")
    if wanted not in names:
        raise APIError(
            400, f"tool_choice names {wanted!r}, which is not among the tools.", param="tool_choice"
        )
    return [function for function in ask.functions if function.name == wanted]
