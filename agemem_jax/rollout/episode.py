"""One three-stage episode as a generator that reads like the paper's algorithms 3 to 5.

The generator yields requests (`requests.py`) and is sent their results; it holds no
model, no bank and no batch. Its value is the finished `Trajectory`.
"""

import dataclasses
from collections.abc import Generator
from typing import Any

from agemem_jax.memory import operations
from agemem_jax.protocol import prompts
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.protocol.events import (
    AnswerEvent,
    Event,
    FormatEvent,
    OverflowEvent,
    RoundLimitEvent,
    ToolEvent,
)
from agemem_jax.protocol.messages import Context, Kind, Message
from agemem_jax.protocol.parser import parse
from agemem_jax.protocol.tools import TOOL_NAMES, ToolCall
from agemem_jax.rollout.recorder import SegmentRecorder
from agemem_jax.rollout.requests import Generate, MemoryRequest, Request, SimilarityRequest
from agemem_jax.rollout.trajectory import Trajectory, TranscriptEntry
from agemem_jax.tasks.task import Task

Play = Generator[Request, Any, Any]


@dataclasses.dataclass(frozen=True)
class EpisodeConfig:
    """The rules of an episode (paper sections 3.3 and A.3).

    Attributes:
      stages: which stages are played, ascending; Stage 3 is always the last.
      max_context_tokens: T_max; a longer prompt ends the episode.
      max_response_tokens: limit of one response.
      max_summary_tokens: limit of one summary.
      max_messages: Stage 1 takes at most this many messages (N_max of Stage 1).
      max_rounds: N_max of Stage 3.
      rounds_per_message: actions the policy has for one message of Stages 1 and 2.
      auto_retrieve: k of the automatic retrieval beside a Stage 1 message; 0 is none.
      top_k: entries of a `Retrieve_memory` that names no number.
      filter_threshold: θ; a filter removes messages at least this similar.
      tools: the tools that work; a call of any other is answered as unknown.
      retrieve_each_step: retrieve for the newest message before every action
        (the RAG variants of section 4.1) in Stages 2 and 3.
      prompt_style: "full" or "compact" system prompt.
    """

    stages: tuple[int, ...] = (1, 2, 3)
    max_context_tokens: int = 8192
    max_response_tokens: int = 2048
    max_summary_tokens: int = 512
    max_messages: int = 16
    max_rounds: int = 8
    rounds_per_message: int = 1
    auto_retrieve: int = 3
    top_k: int = 3
    filter_threshold: float = 0.6
    tools: tuple[str, ...] = TOOL_NAMES
    retrieve_each_step: bool = False
    prompt_style: str = "full"

    def __post_init__(self):
        if tuple(sorted(set(self.stages))) != tuple(self.stages) or self.stages[-1:] != (3,):
            raise ValueError(
                f"episode.stages is {self.stages}; it must be (3,), (1, 3), (2, 3) or (1, 2, 3)."
            )
        for name in (
            "max_context_tokens", "max_response_tokens", "max_summary_tokens", "max_messages",
            "max_rounds", "rounds_per_message", "top_k",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"episode.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.auto_retrieve < 0:
            raise ValueError(
                f"episode.auto_retrieve is {self.auto_retrieve}; it must be 0 (none) or more."
            )
        if self.prompt_style not in prompts.STYLES:
            raise ValueError(
                f"episode.prompt_style is {self.prompt_style!r}; it must be one of "
                f"{', '.join(prompts.STYLES)}."
            )
        if not -1.0 <= self.filter_threshold <= 1.0:
            raise ValueError(
                f"episode.filter_threshold is {self.filter_threshold}; it is a cosine "
                "similarity and must lie in [-1, 1]."
            )
        unknown = sorted(set(self.tools) - set(TOOL_NAMES))
        if unknown:
            raise ValueError(f"episode.tools names {unknown}; known tools: {list(TOOL_NAMES)}.")

    @property
    def max_length(self) -> int:
        """Longest prompt plus response, in tokens: what the engine must hold."""
        return self.max_context_tokens + max(self.max_response_tokens, self.max_summary_tokens)


class _Ended(Exception):
    """The context overflowed; unwinds the stages."""


class EpisodeRules:
    """Starts episodes under one configuration; holds what all of them share.

    Raises:
      ValueError: if the system prompt leaves no room in the token budget.
    """

    def __init__(self, config: EpisodeConfig, chat: ChatEncoder):
        self.config = config
        self.chat = chat
        text = prompts.system_prompt(config.prompt_style, tools=config.tools)
        self.system = chat.message("system", text, Kind.SYSTEM)
        used = len(self.system.token_ids) + len(chat.generation_prompt)
        if used >= config.max_context_tokens:
            raise ValueError(
                f"episode.max_context_tokens is {config.max_context_tokens}, but the "
                f"{config.prompt_style} system prompt alone takes {used} tokens; "
                "raise the budget or choose a shorter prompt_style."
            )

    @property
    def shared_prefix(self) -> tuple[int, ...]:
        """The tokens that every prompt of an episode starts with."""
        return self.system.token_ids

    def play(self, task: Task) -> Generator[Request, Any, Trajectory]:
        """An episode of `task`, to be driven with `send`."""
        return _Episode(self, task).play()


class _Episode:
    """The state of one episode: context, events, segments."""

    def __init__(self, rules: EpisodeRules, task: Task):
        self.config, self.chat, self.rules = rules.config, rules.chat, rules
        self.task = task
        self.context = Context((rules.system,))
        self.stage = self.config.stages[0]
        self.step = 0
        self.events: list[Event] = []
        self.transcript: list[TranscriptEntry] = []
        self.prompt_tokens: list[int] = []
        self.memory: dict[str, str] = {}
        self.recorder = SegmentRecorder()

    def play(self) -> Generator[Request, Any, Trajectory]:
        stages = {
            1: self.construct_long_term_memory,
            2: self.control_under_distractors,
            3: self.reason,
        }
        try:
            for stage in self.config.stages:
                self.stage = stage
                if stage != 3 or 2 not in self.config.stages:
                    # Reset: what was not stored is gone. Stage 3 continues from Stage 2.
                    self.context = Context((self.rules.system,))
                yield from stages[stage]()
        except _Ended:
            pass
        return Trajectory(
            task=self.task,
            segments=self.recorder.segments(),
            events=self.events,
            transcript=self.transcript,
            prompt_tokens=self.prompt_tokens,
            memory=self.memory,
        )

    def construct_long_term_memory(self) -> Play:
        """Stage 1 (algorithm 3): messages arrive, the query is not known yet."""
        for message in self.task.messages[: self.config.max_messages]:
            text = message
            if self.config.auto_retrieve:
                found = yield MemoryRequest(
                    operations.Retrieve(query=message, top_k=self.config.auto_retrieve)
                )
                text = prompts.task_message_text(message, found.entries)
            self.show("user", text, Kind.TASK_MESSAGE)
            yield from self.respond_to_message()

    def control_under_distractors(self) -> Play:
        """Stage 2 (algorithm 4): near but irrelevant messages fill the context."""
        for distractor in self.task.distractors:
            text = yield from self.with_retrieval(distractor)
            self.show("user", text, Kind.DISTRACTOR)
            yield from self.respond_to_message()

    def reason(self) -> Play:
        """Stage 3 (algorithm 5): the query, up to N_max rounds, one answer."""
        text = yield from self.with_retrieval(prompts.query_text(self.task.query))
        self.show("user", text, Kind.QUERY)
        for _ in range(self.config.max_rounds):
            if (yield from self.act()):
                return
        self.events.append(
            RoundLimitEvent(stage=3, step=self.step - 1, rounds=self.config.max_rounds)
        )

    def respond_to_message(self) -> Play:
        for _ in range(self.config.rounds_per_message):
            if (yield from self.act()):
                return

    def with_retrieval(self, text: str) -> Play:
        if not self.config.retrieve_each_step:
            return text
        found = yield MemoryRequest(operations.Retrieve(query=text, top_k=self.config.top_k))
        return prompts.task_message_text(text, found.entries)

    def act(self) -> Play:
        """One step: the policy responds, its calls run. True if it answered."""
        context_tokens = len(self.context.token_ids) + len(self.chat.generation_prompt)
        step = self.step
        response = yield from self.generate(self.context, self.config.max_response_tokens)
        parsed = parse(response.text)
        if parsed.answer is not None:
            shown = [m for m in self.context.messages if m.kind not in (Kind.SYSTEM, Kind.QUERY)]
            self.events.append(
                AnswerEvent(
                    stage=self.stage, step=step, answer=parsed.answer,
                    context_tokens=context_tokens, context_text=Context(tuple(shown)).text,
                )
            )  # fmt: skip
        self.context = self.context.append(response)
        results = [prompts.error_text(error) for error in parsed.errors]
        for reason in parsed.errors:
            self.events.append(FormatEvent(stage=self.stage, step=step, reason=reason))
        for call in parsed.calls:
            event = yield from self.run_tool(call, step)
            self.events.append(event)
            results.append(prompts.tool_result_text(event))
        if parsed.answer is not None:
            return True
        self.show("user", "\n".join(results), Kind.TOOL_RESULT)
        return False

    def generate(self, context: Context, max_tokens: int, purpose="act") -> Play:
        """Asks for a response to `context`, records it, returns it as a message."""
        prompt = (*context.token_ids, *self.chat.generation_prompt)
        if len(prompt) > self.config.max_context_tokens:
            self.events.append(
                OverflowEvent(stage=self.stage, step=self.step, context_tokens=len(prompt))
            )
            raise _Ended
        step, self.step = self.step, self.step + 1
        generated = yield Generate(
            context=context, prompt=prompt, max_tokens=max_tokens, stage=self.stage,
            step=step, purpose=purpose,
        )  # fmt: skip
        self.recorder.record(prompt, generated.token_ids, generated.log_probs, step)
        self.prompt_tokens.append(len(prompt))
        message = self.chat.response(generated.token_ids)
        self.transcript.append(TranscriptEntry(self.stage, step, purpose, message.text))
        return message

    def show(self, role: str, text: str, kind: Kind) -> None:
        """Appends a message that the policy did not write."""
        self.context = self.context.append(self.chat.message(role, text, kind))
        self.transcript.append(TranscriptEntry(self.stage, self.step, kind.value, text))

    # --- Tools -------------------------------------------------------------------

    def run_tool(self, call, step: int) -> Play:
        """Runs one call; whatever is wrong with it becomes an event, never an error."""
        before = self.context.num_tokens
        base = {"stage": self.stage, "step": step, "name": call.name, "tokens_before": before}
        if not isinstance(call, ToolCall):
            return ToolEvent(**base, arguments={"raw": call.raw}, ok=False, error=call.error,
                             tokens_after=before)  # fmt: skip
        base["arguments"] = call.arguments
        if call.name not in self.config.tools:
            error = f"{call.name} is not available here; use one of {list(self.config.tools)}."
            return ToolEvent(**base, ok=False, error=error, tokens_after=before)
        if call.name == "Filter_context":
            outcome = yield from self.filter_context(call.arguments["criteria"])
        elif call.name == "Summary_context":
            outcome = yield from self.summarise_context(call.arguments["span"])
        else:
            outcome = yield from self.use_memory(call)
        return ToolEvent(**base, **outcome, tokens_after=self.context.num_tokens)

    def use_memory(self, call: ToolCall) -> Play:
        arguments = call.arguments
        match call.name:
            case "Add_memory":
                metadata = dict(arguments.get("metadata") or {})
                if arguments.get("memory_type"):
                    metadata["memory_type"] = arguments["memory_type"]
                operation = operations.Add(content=arguments["content"], metadata=metadata)
            case "Update_memory":
                operation = operations.Update(
                    memory_id=arguments["memory_id"], content=arguments["content"],
                    metadata=arguments.get("metadata"),
                )  # fmt: skip
            case "Delete_memory":
                operation = operations.Delete(memory_id=arguments["memory_id"])
            case "Retrieve_memory":
                operation = operations.Retrieve(
                    query=arguments["query"],
                    top_k=arguments.get("top_k") or self.config.top_k,
                    metadata_filter=arguments.get("metadata_filter"),
                )
        result = yield MemoryRequest(operation)
        content = arguments.get("content") if result.ok else None
        if result.ok and call.name == "Delete_memory":
            self.memory.pop(result.memory_id)
        elif result.ok and content is not None:
            self.memory[result.memory_id] = content
        return {
            "ok": result.ok, "changed": result.changed, "error": result.error,
            "memory_id": result.memory_id, "content": content, "retrieved": result.entries,
        }  # fmt: skip

    def editable(self) -> list[int]:
        """Messages a context tool may touch: all but pinned ones and the call itself."""
        last = len(self.context.messages) - 1
        return [i for i, m in enumerate(self.context.messages) if not m.pinned and i != last]

    def filter_context(self, criteria: str) -> Play:
        """Removes the messages whose similarity to `criteria` is at least θ (section 3.2)."""
        candidates = self.editable()
        texts = tuple(self.context.messages[i].text for i in candidates)
        scores = (yield SimilarityRequest(texts, criteria)) if texts else []
        removed = frozenset(
            index
            for index, score in zip(candidates, scores, strict=True)
            if score >= self.config.filter_threshold
        )
        self.context = self.context.without(removed)
        content = f"{len(removed)}"
        return {"ok": True, "changed": bool(removed), "content": content}

    def summarise_context(self, span: str) -> Play:
        """Replaces messages by a summary that the policy writes as a step of its own."""
        candidates = self.editable()
        if span != "all":
            candidates = candidates[-int(span) :]
        if not candidates:
            return {"ok": False, "changed": False, "error": "There is no message to summarise."}
        chosen = Context(tuple(self.context.messages[i] for i in candidates))
        prompt = Context(
            (
                self.chat.message("system", prompts.summary_prompt(), Kind.SYSTEM),
                self.chat.message("user", chosen.text, Kind.TASK_MESSAGE),
            )
        )
        room = self.config.max_context_tokens - len(self.chat.generation_prompt)
        if prompt.num_tokens > room:
            error = f"Choose fewer messages: these take {prompt.num_tokens} tokens at once."
            return {"ok": False, "changed": False, "error": error}
        written = yield from self.generate(prompt, self.config.max_summary_tokens, "summary")
        text = written.text.strip()
        if not text:
            return {"ok": False, "changed": False, "error": "The summary was empty."}
        summary = self.summary_message(text)
        self.context = self.context.replace(frozenset(candidates), summary)
        return {"ok": True, "changed": True, "content": text}

    def summary_message(self, text: str) -> Message:
        return self.chat.message("user", prompts.summary_text(text), Kind.SUMMARY)
