"""What the memory systems share that AgeMem is compared with: a pipeline in place of a policy.

Messages of Stage 1 go to a pipeline that makes its own calls of the model and operates the store;
Stages 2 and 3 are the ordinary episode without memory tools, shown what the pipeline recalls. All
calls are recorded as steps, so that any of these methods can be trained like AgeMem.
"""

import abc
import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar

from agemem_jax.memory import operations
from agemem_jax.protocol import prompts
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.protocol.events import (
    FormatEvent,
    RetrievalEvent,
    RetrievedEntry,
    TrimmedPromptEvent,
)
from agemem_jax.protocol.messages import Context, Kind
from agemem_jax.protocol.parser import InvalidCall
from agemem_jax.protocol.tools import ToolCall, ToolResult, ToolSpec, shown
from agemem_jax.rollout.episode import Episode, EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.requests import Generate, MemoryRequest, Request, SimilarityRequest
from agemem_jax.rollout.tool_use import Play
from agemem_jax.rollout.tools import memory as tools
from agemem_jax.rollout.tools.registry import of_target
from agemem_jax.rollout.trajectory import Trajectory, TranscriptEntry
from agemem_jax.tasks.task import Task

# What a pipeline does to the store is recorded as calls of the tools that do the same.
_OPERATIONS = (tools.ADD, tools.UPDATE, tools.DELETE)


@dataclasses.dataclass(frozen=True)
class MemorySystem(abc.ABC):
    """A method whose long-term memory is kept by a pipeline, not by calls of the policy.

    Attributes:
      top_k: memories that are shown with a message of Stages 2 and 3; 0 is the episode's `top_k`.
    """

    title: ClassVar[str]
    trained: ClassVar[bool] = False

    top_k: int = 0

    def __post_init__(self):
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be 0 (the episode's) or more.")

    @abc.abstractmethod
    def instructions(self, style: str) -> tuple[str, ...]:
        """The instructions of all calls of the model, in the prompt style of the episode."""

    @abc.abstractmethod
    def begin(self, episode: "SystemEpisode") -> "Pipeline":
        """The pipeline of one episode, with nothing stored yet."""

    def demonstrate(self, request: Generate, agent: Any) -> Any:
        """What a model that knows the task replies to a call of the pipeline, for a warm-up.

        Args:
          request: of the pipeline.
          agent: `training.warmup.system_agent.SystemAgent`, which knows the task and errs.

        Returns:
          Text, or a value that is written as JSON; None where nothing is demonstrated.
        """
        return None

    def rules(self, player: Player, episode: EpisodeConfig) -> "SystemRules":
        config = dataclasses.replace(
            episode,
            tools=of_target(episode.tools, "other"),
            auto_retrieve=0,
            retrieve_each_step=True,
            top_k=self.top_k or episode.top_k,
        )
        return SystemRules(self, player.rules(config))


class Pipeline(abc.ABC):
    """A memory system in one episode; its own state, if it has any, beside the store.

    Attributes:
      metadata: of entries that are searched, where the store holds others, too.
    """

    metadata: Mapping[str, Any] | None = None

    def __init__(self, episode: "SystemEpisode"):
        self.episode = episode

    @abc.abstractmethod
    def remember(self, message: str) -> Play:
        """Takes in one message of Stage 1."""

    def recall(self, query: str) -> Play:
        """What is shown below a message of Stages 2 and 3: text, empty where there is nothing."""
        top_k = self.episode.config.top_k
        entries = yield from self.episode.search(query, top_k, self.metadata)
        return prompts.memories_text(entries) if entries else ""


class SystemRules:
    """Starts the episodes of a memory system, `method`.

    Raises:
      ValueError: instructions of the system leave no room in the token budget.
    """

    # Its prompts begin with different instructions; the engine finds what several of them share.
    shared_prefix: tuple[int, ...] = ()

    def __init__(self, method: MemorySystem, base: EpisodeRules):
        self.method, self._base = method, base
        config = base.config
        for text in method.instructions(config.prompt_style):
            ids = _prompt(base.chat, text, "").token_ids
            used = len(ids) + len(base.chat.generation_prompt)
            if used >= config.max_context_tokens:
                raise ValueError(
                    f"episode.max_context_tokens is {config.max_context_tokens}, but instructions "
                    f"of {method.title} in {config.prompt_style} style alone take {used} tokens; "
                    "raise the budget or choose a shorter prompt_style."
                )

    def play(self, task: Task) -> Generator[Request, Any, Trajectory]:
        """An episode of `task`, to be driven with `send`."""
        return SystemEpisode(self._base, task, self.method).play()


class SystemEpisode(Episode):
    """An episode whose Stage 1 is played by a pipeline; what the pipeline can do in it."""

    def __init__(self, rules: EpisodeRules, task: Task, method: MemorySystem):
        super().__init__(rules, task)
        self.pipeline = method.begin(self)

    def play(self) -> Generator[Request, Any, Trajectory]:
        trajectory = yield from super().play()
        operated = tuple(spec.name for spec in _OPERATIONS)
        return dataclasses.replace(trajectory, tools=(*operated, *trajectory.tools))

    def hear(self, message: str) -> Play:
        self.tell(Kind.TASK_MESSAGE.value, message)
        yield from self.pipeline.remember(message)

    def with_retrieval(self, text: str, top_k: int) -> Play:
        if not top_k:
            return text
        recalled = yield from self.pipeline.recall(text)
        return f"{text}\n{recalled}" if recalled else text

    def ask(self, purpose: str, instructions: str, parts: Sequence[str], ending: str = "") -> Play:
        """The text of the model's response to a prompt of the system's own; one step.

        Where the prompt passes T_max, parts are left out from the last one on, and of the only
        one that is left the end is cut off.

        Args:
          purpose: of the call, in a word, for transcripts.
          instructions: the system turn, one of `MemorySystem.instructions`.
          parts: of the user turn, one below the other, the most important first.
          ending: stands below them, and is never cut.
        """
        parts, ending = _encodable(list(parts)), _encodable(ending)
        context = self._prompt(instructions, parts, ending)
        length = self.prompt_length(context)
        if length > self.config.max_context_tokens:
            self.events.append(TrimmedPromptEvent(self.stage, self.step, length))
            context = self._trimmed(instructions, parts, ending)
        self.tell(f"{purpose}_prompt", context.messages[-1].text)
        response = yield from self.generate(context, self.config.max_response_tokens, purpose)
        return response.text

    def _prompt(self, instructions: str, parts: Sequence[str], ending: str) -> Context:
        text = "\n".join((*parts, ending) if ending else parts)
        return _prompt(self.chat, instructions, text)

    def _trimmed(self, instructions: str, parts: Sequence[str], ending: str) -> Context:
        """The longest prompt that fits, by whole parts, then by characters of the first one."""

        def longest(make: Callable[[int], Context], high: int) -> int:
            """The largest number up to `high` whose prompt fits; 0 where none does."""
            low = 0
            while low < high:
                middle = (low + high + 1) // 2
                fits = self.prompt_length(make(middle)) <= self.config.max_context_tokens
                low, high = (middle, high) if fits else (low, middle - 1)
            return low

        def whole(count: int) -> Context:
            return self._prompt(instructions, parts[:count], ending)

        def cut(count: int) -> Context:
            return self._prompt(instructions, [part[:count] for part in parts[:1]], ending)

        count = longest(whole, len(parts))
        if count or not parts:
            return whole(count)
        return cut(longest(cut, len(parts[0])))

    def search(
        self, query: str, top_k: int, metadata_filter: Mapping[str, Any] | None = None
    ) -> Play:
        """The `top_k` entries nearest to the query, best first, of those that match the filter."""
        query = _encodable(query)
        found = yield MemoryRequest(operations.Retrieve(query, top_k, metadata_filter))
        if not found.ok:
            raise RuntimeError(f"A search of a memory system failed: {found.error}")
        self.found(query, found.entries)
        return found.entries

    def found(self, query: str, entries: Sequence[RetrievedEntry]) -> None:
        """Records what was looked up; a system that looks by itself says so with this."""
        self.events.append(RetrievalEvent(self.stage, self.step, query, tuple(entries)))

    def similarities(self, texts: Sequence[str], query: str) -> Play:
        """The cosine of each text to the query, for what is kept beside the store."""
        if not texts:
            return []
        texts = tuple(_encodable(text) for text in texts)
        return (yield SimilarityRequest(texts, _encodable(query)))

    def add(self, content: Any, metadata: Mapping[str, Any] | None = None) -> Play:
        """Stores an entry, as a result with its `memory_id`; never raises, like those below."""
        arguments = {"content": content}
        if metadata:
            arguments["metadata"] = dict(metadata)
        return (yield from self._operate(tools.ADD, arguments))

    def update(
        self, memory_id: Any, content: Any, metadata: Mapping[str, Any] | None = None
    ) -> Play:
        """Replaces the content of an entry, and its metadata where there is any."""
        arguments = {"memory_id": memory_id, "content": content}
        if metadata:
            arguments["metadata"] = dict(metadata)
        return (yield from self._operate(tools.UPDATE, arguments))

    def delete(self, memory_id: Any) -> Play:
        """Removes an entry."""
        return (yield from self._operate(tools.DELETE, {"memory_id": memory_id}))

    def _operate(self, spec: ToolSpec, arguments: Mapping[str, Any]) -> Play:
        """One operation that the last response decided, recorded as a call of its tool.

        What is no text where text is needed fails like an id that does not exist.
        """
        step, before, memory = self.step - 1, self.context, dict(self.memory)
        error, texts = None, ("memory_id", "content")
        try:
            wrong = [each for each in texts if not isinstance(arguments.get(each, ""), str)]
            if wrong:
                error = f"{wrong[0]} of {spec.name} must be a string."
            arguments = _encodable(dict(arguments))
        except RecursionError:
            error = f"The arguments of {spec.name} are nested too deeply."
        if error is None:
            result = yield from spec.handler(self, arguments)
            call = ToolCall(spec.name, arguments)
        else:
            result = ToolResult(error, ok=False)
            call = InvalidCall(spec.name, ", ".join(map(shown, arguments.values())), error)
        self.record(call, step, result, before, memory.get(result.memory_id))
        self.tell("operation", f"{spec.name}: {result.text} {result.content or ''}".rstrip())
        return result

    def malformed(self, reason: str) -> None:
        """Records that the last response could not be read; the system goes on without it."""
        event = FormatEvent(stage=self.stage, step=self.step - 1, reason=_encodable(reason))
        self.events.append(event)

    def tell(self, role: str, text: str) -> None:
        """Adds a line to the transcript that a person reads; the model sees none of it."""
        self.transcript.append(TranscriptEntry(self.stage, self.step, role, text))


def _prompt(chat: ChatEncoder, instructions: str, text: str) -> Context:
    """Instructions in the system turn, text in the user's: every chat format has both."""
    return Context(
        (
            chat.message("system", instructions, Kind.SYSTEM),
            chat.message("user", text, Kind.TASK_MESSAGE),
        )
    )


def _encodable(value: Any) -> Any:
    """The value without halves of character pairs, which JSON can spell and UTF-8 cannot."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(each) for each in value]
    return value
