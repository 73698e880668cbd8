"""One three-stage episode as a generator that reads like the paper's algorithms 3 to 5.

The generator yields requests (`requests.py`) and is sent their results; it holds no
model, no bank and no batch. Its value is the finished `Trajectory`.
"""

import dataclasses
from collections.abc import Generator
from typing import Any

from absl import logging

from agemem_jax.memory import operations
from agemem_jax.protocol import prompts
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.protocol.events import (
    AnswerEvent,
    DroppedMessagesEvent,
    Event,
    FormatEvent,
    OverflowEvent,
    RetrievalEvent,
    RoundLimitEvent,
)
from agemem_jax.protocol.messages import Context, Kind
from agemem_jax.protocol.parser import parse
from agemem_jax.protocol.tools import TOOL_NAMES
from agemem_jax.rollout.recorder import SegmentRecorder
from agemem_jax.rollout.requests import Generate, MemoryRequest, Request
from agemem_jax.rollout.tool_use import Play, ToolUse
from agemem_jax.rollout.trajectory import Trajectory, TranscriptEntry
from agemem_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class EpisodeConfig:
    """The rules of an episode (paper sections 3.3 and A.3).

    Attributes:
      stages: which stages are played, ascending; Stage 3 is always the last.
      max_context_tokens: T_max; a longer prompt ends the episode.
      max_response_tokens: limit of one response.
      max_summary_tokens: limit of one summary.
      max_messages: Stage 1 takes at most this many messages (N_max of Stage 1); what is
        left out becomes an event.
      max_rounds: N_max of Stage 3.
      rounds_per_message: actions the policy has for one message of Stages 1 and 2.
      max_calls: calls of one response that are run; the others are answered with an error.
        A policy that behaves makes one, or one for each fact of a message.
      max_summaries: summaries of one response that are written, each a generation of its
        own. Behind one of everything there is nothing left to summarise.
      auto_retrieve: k of the automatic retrieval beside a Stage 1 message; 0 is none.
      top_k: entries of a `Retrieve_memory` that names no number.
      filter_threshold: θ; a filter removes messages at least this similar.
      tools: the tools that work; a call of any other is answered as unknown.
      retrieve_each_step: retrieve for the newest message before every action
        (the RAG variants of section 4.1) in Stages 2 and 3. What is found stands at the end
        of that message, so that no earlier token changes.
      prompt_style: "full" or "compact" system prompt.
    """

    stages: tuple[int, ...] = (1, 2, 3)
    max_context_tokens: int = 8192
    max_response_tokens: int = 2048
    max_summary_tokens: int = 512
    max_messages: int = 16
    max_rounds: int = 8
    rounds_per_message: int = 1
    max_calls: int = 16
    max_summaries: int = 1
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
            "max_rounds", "rounds_per_message", "max_calls", "max_summaries", "top_k",
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

    Args:
      config: of the episodes.
      chat: the policy's chat format.
      dropping: sources of which was said that they have more messages than an episode
        takes; rules that share the set say it once.

    Raises:
      ValueError: if the system prompt leaves no room in the token budget.
    """

    def __init__(self, config: EpisodeConfig, chat: ChatEncoder, dropping: set[str] | None = None):
        self.config = config
        self.chat = chat
        self._dropping = set() if dropping is None else dropping
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

    def say_dropped(self, task: Task) -> None:
        """Logs once for each source that messages of its tasks are left out."""
        if task.data_set not in self._dropping:
            self._dropping.add(task.data_set)
            logging.warning(
                "Task %s of %s has %d messages and episode.max_messages is %d: the last ones "
                "are left out, here and in other tasks; see dropped_messages in the metrics.",
                task.task_id, task.data_set, len(task.messages), self.config.max_messages,
            )  # fmt: skip


class _Episode(ToolUse):
    """The state of one episode: context, events, segments."""

    def __init__(self, rules: EpisodeRules, task: Task):
        self.config, self.chat, self.rules = rules.config, rules.chat, rules
        self.task = task
        self.context = Context((rules.system,))
        self.stage = self.config.stages[0]
        self.step = 0
        self.summaries = 0  # written for the current response
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
        dropped = len(self.task.messages) - self.config.max_messages
        if dropped > 0:
            self.events.append(DroppedMessagesEvent(stage=1, step=self.step, dropped=dropped))
            self.rules.say_dropped(self.task)
        for message in self.task.messages[: self.config.max_messages]:
            text = yield from self.with_retrieval(message, self.config.auto_retrieve)
            self.show("user", text, Kind.TASK_MESSAGE)
            yield from self.respond_to_message()

    def control_under_distractors(self) -> Play:
        """Stage 2 (algorithm 4): near but irrelevant messages fill the context."""
        for distractor in self.task.distractors:
            text = yield from self.with_step_retrieval(distractor)
            self.show("user", text, Kind.DISTRACTOR)
            yield from self.respond_to_message()

    def reason(self) -> Play:
        """Stage 3 (algorithm 5): the query, up to N_max rounds, one answer."""
        text = yield from self.with_step_retrieval(prompts.query_text(self.task.query))
        self.show("user", text, Kind.QUERY)
        for left in reversed(range(self.config.max_rounds)):
            if (yield from self.act(again=left > 0)):
                return
        self.events.append(
            RoundLimitEvent(stage=3, step=self.step - 1, rounds=self.config.max_rounds)
        )

    def respond_to_message(self) -> Play:
        for left in reversed(range(self.config.rounds_per_message)):
            if (yield from self.act(again=left > 0)):
                return

    def with_retrieval(self, text: str, top_k: int) -> Play:
        """`text` and below it the `top_k` entries nearest to it, where there are any."""
        if not top_k:
            return text
        found = yield MemoryRequest(operations.Retrieve(query=text, top_k=top_k))
        if not found.ok:
            raise RuntimeError(f"A retrieval that the policy did not ask for failed: {found.error}")
        self.events.append(RetrievalEvent(self.stage, self.step, text, found.entries))
        return prompts.task_message_text(text, found.entries)

    def with_step_retrieval(self, text: str) -> Play:
        """The message in front of an action of Stages 2 and 3."""
        each_step = self.config.retrieve_each_step and self.stage > 1
        return (yield from self.with_retrieval(text, self.config.top_k if each_step else 0))

    def act(self, again: bool = True) -> Play:
        """One step: the policy responds, its calls run. True if it answered.

        Args:
          again: whether the policy acts next on what it is told, unless it answered.
        """
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
        results += yield from self.run_calls(parsed.calls, step)
        text = "\n".join(results)
        if parsed.answer is not None:
            if text and self.stage != 3:  # what was wrong beside an answer that ends only a turn
                self.show("user", text, Kind.TOOL_RESULT)
            return True
        if again:
            text = yield from self.with_step_retrieval(text)
        self.show("user", text, Kind.TOOL_RESULT)
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
