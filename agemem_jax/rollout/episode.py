"""One three-stage episode as a generator that reads like the paper's algorithms 3 to 5.

The generator yields requests (`requests.py`) and is sent their results; it holds no
model, no bank and no batch. Its value is the finished `Trajectory`.
"""

import dataclasses
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

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
)
from agemem_jax.protocol.messages import Context, Kind, Message
from agemem_jax.protocol.parser import parse
from agemem_jax.protocol.tools import ToolTable
from agemem_jax.rollout.context_log import ContextLog
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.goals import Interaction, pursue, tools_for
from agemem_jax.rollout.recorder import SegmentRecorder
from agemem_jax.rollout.requests import Generate, MemoryRequest, Request
from agemem_jax.rollout.tool_use import Play, ToolUse
from agemem_jax.rollout.tools.registry import tool_table
from agemem_jax.rollout.trajectory import Trajectory, TranscriptEntry
from agemem_jax.tasks.task import Goal, Question, Task


class Overflowed(Exception):
    """The context overflowed; unwinds the stages."""


class Rules(Protocol):
    """How a method plays tasks: what an evaluation compares, and what training trains."""

    @property
    def shared_prefix(self) -> tuple[int, ...]:
        """Tokens that every prompt starts with; none where prompts differ."""
        ...

    def play(self, task: Task) -> Generator[Request, Any, Trajectory]:
        """An episode of `task`, to be driven with `send`."""
        ...


class EpisodeRules:
    """Starts the three-stage episodes of AgeMem; holds what all of them share.

    Args:
      config: of the episodes.
      chat: the policy's chat format.
      goals: one of each kind that tasks have, where they are not questions alone.
      dropping: sources of which was said that they have more messages than an episode
        takes; rules that share the set say it once.
      start: what makes the episode of (these rules, a task): `Episode`, or a class of a method
        of its own below it.

    Raises:
      ValueError: if the system prompt leaves no room in the token budget.
    """

    def __init__(
        self,
        config: EpisodeConfig,
        chat: ChatEncoder,
        goals: Sequence[Goal] = (Question("", ""),),
        dropping: set[str] | None = None,
        start: "Callable[[EpisodeRules, Task], Episode] | None" = None,
    ):
        self.config = config
        self.chat = chat
        self._dropping = set() if dropping is None else dropping
        self._start = Episode if start is None else start
        self._systems: dict[ToolTable, Message] = {}
        self._shared = [self.system(self.tools(goal)).token_ids for goal in goals]

    def tools(self, goal: Goal) -> ToolTable:
        """What the policy can call in an episode with this goal."""
        return tool_table((*self.config.tools, *tools_for(goal)))

    def system(self, tools: ToolTable) -> Message:
        """The system message that offers these tools.

        Raises:
          ValueError: it leaves no room in the token budget.
        """
        if tools in self._systems:
            return self._systems[tools]
        text = prompts.system_prompt(self.config.prompt_style, tools)
        system = self.chat.message("system", text, Kind.SYSTEM)
        used = len(system.token_ids) + len(self.chat.generation_prompt)
        if used >= self.config.max_context_tokens:
            raise ValueError(
                f"episode.max_context_tokens is {self.config.max_context_tokens}, but the "
                f"{self.config.prompt_style} system prompt alone takes {used} tokens; "
                "raise the budget or choose a shorter prompt_style."
            )
        self._systems[tools] = system
        return system

    @property
    def shared_prefix(self) -> tuple[int, ...]:
        """The tokens that every prompt of an episode with one of `goals` starts with."""
        return tuple(os.path.commonprefix(self._shared))

    def play(self, task: Task) -> Generator[Request, Any, Trajectory]:
        """An episode of `task`, to be driven with `send`."""
        return self._start(self, task).play()

    def say_dropped(self, task: Task) -> None:
        """Logs once for each source that messages of its tasks are left out."""
        if task.data_set not in self._dropping:
            self._dropping.add(task.data_set)
            logging.warning(
                "Task %s of %s has %d messages and episode.max_messages is %d: the last ones "
                "are left out, here and in other tasks; see dropped_messages in the metrics.",
                task.task_id, task.data_set, len(task.messages), self.config.max_messages,
            )  # fmt: skip


class Episode(ToolUse):
    """The state of one episode: context, events, segments.

    A method that plays in another way changes some of `end_session`, `respond_to_message`,
    `make_room` and the three stages (`agemem_jax/methods`).
    """

    def __init__(self, rules: EpisodeRules, task: Task):
        self.config, self.chat, self.rules = rules.config, rules.chat, rules
        self.task = task
        self.tools = rules.tools(task.goal)
        self.system = rules.system(self.tools)
        self.context = Context((self.system,))
        self.stage = self.config.stages[0]
        self.step = 0
        self.summaries = 0  # written for the current response
        self.events: list[Event] = []
        self.transcript: list[TranscriptEntry] = []
        self.context_log = ContextLog()
        self.prompt_tokens: list[int] = []
        self.memory: dict[str, str] = {}
        self.interaction: Interaction | None = None
        self.given: tuple[Message, ...] = (self.system,)
        self.acted_on, self.given_when_acted_on = self.context, self.given
        self.recorder = SegmentRecorder()

    def play(self) -> Generator[Request, Any, Trajectory]:
        stages = {
            1: self.construct_long_term_memory,
            2: self.control_under_distractors,
            3: self.pursue_goal,
        }
        try:
            for stage in self.config.stages:
                if stage != 3 or 2 not in self.config.stages:  # Stage 3 continues from Stage 2
                    yield from self.end_session()
                self.stage = stage
                yield from stages[stage]()
        except Overflowed:
            if self.interaction is not None:
                self.interaction.close(self)
        self.context_log.look(self.context, self.step)
        return Trajectory(
            task=self.task,
            segments=self.recorder.segments(),
            events=self.events,
            transcript=self.transcript,
            prompt_tokens=self.prompt_tokens,
            memory=self.memory,
            tools=self.tools.names,
            max_context_tokens=self.config.max_context_tokens,
            left=self.context_log.left(self.transcript),
        )

    def end_session(self) -> Play:
        """Resets the context: what was not stored is gone."""
        self.context_log.look(self.context, self.step)
        self.context_log.reset()
        self.context = Context((self.system,))
        self.given = (self.system,)
        yield from ()

    def make_room(self) -> Play:
        """What the episode itself does about a long context, in front of an action: nothing."""
        yield from ()

    def construct_long_term_memory(self) -> Play:
        """Stage 1 (algorithm 3): messages arrive, the query is not known yet."""
        dropped = len(self.task.messages) - self.config.max_messages
        if dropped > 0:
            self.events.append(DroppedMessagesEvent(stage=1, step=self.step, dropped=dropped))
            self.rules.say_dropped(self.task)
        session = self.config.messages_per_session
        for number, message in enumerate(self.task.messages[: self.config.max_messages]):
            if session and number and number % session == 0:
                yield from self.end_session()
            yield from self.hear(message)

    def hear(self, message: str) -> Play:
        """One message of Stage 1, beside what may be stale by it."""
        text = yield from self.with_retrieval(message, self.config.auto_retrieve)
        self.show("user", text, Kind.TASK_MESSAGE)
        yield from self.respond_to_message()

    def control_under_distractors(self) -> Play:
        """Stage 2 (algorithm 4): near but irrelevant messages fill the context."""
        for distractor in self.task.distractors:
            text = yield from self.with_step_retrieval(distractor)
            self.show("user", text, Kind.DISTRACTOR)
            yield from self.respond_to_message()

    def pursue_goal(self) -> Play:
        """Stage 3 (algorithm 5): a question to answer, or an environment to act in."""
        return pursue(self.task.goal, self)

    def respond_to_message(self) -> Play:
        return self.respond(self.config.rounds_per_message)

    def respond(self, rounds: int) -> Play:
        """So many actions, fewer where one is an answer. Returns that, if there was one."""
        for left in reversed(range(rounds)):
            answer = yield from self.act(again=left > 0)
            if answer is not None:
                self.events.append(AnswerEvent(self.stage, self.step - 1, answer))
                return answer
        return None

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
        """One step: the policy responds, its calls run. Returns its answer, if it gave one.

        Args:
          again: whether the policy acts next on what it is told, unless it answered.
        """
        yield from self.make_room()
        self.acted_on, step = self.context, self.step
        self.given_when_acted_on = self.given
        actions = self.actions
        response = yield from self.generate(self.context, self.config.max_response_tokens)
        parsed = parse(response.text, self.tools)
        self.context = self.context.append(response)
        results = [prompts.error_text(error) for error in parsed.errors]
        for reason in parsed.errors:
            self.events.append(FormatEvent(stage=self.stage, step=step, reason=reason))
        results += yield from self.run_calls(parsed.calls, step)
        text = "\n".join(results)
        if parsed.answer is not None:
            if text and self.stage != 3:  # what was wrong beside an answer that ends only a turn
                self.show("user", text, Kind.TOOL_RESULT)
            return parsed.answer
        if again:
            text = yield from self.with_step_retrieval(text)
        # What an environment answers is no less given than what it shows first.
        self.show("user", text, Kind.TOOL_RESULT, given=self.actions > actions)
        return None

    @property
    def actions(self) -> int:
        """How many were tried in the environment so far."""
        return 0 if self.interaction is None else self.interaction.actions

    def at_last_action(self) -> dict[str, Any]:
        """What an `OutcomeEvent` says of the context in which the last action was sampled."""
        said = [m for m in self.acted_on.messages if m.kind not in (Kind.SYSTEM, Kind.QUERY)]
        shown = [m for m in said if m.kind is not Kind.RESPONSE]
        given = self.given_when_acted_on
        known = {id(m) for m in given}
        kept = [m for m in self.acted_on.messages if id(m) in known or m.kind is Kind.SUMMARY]
        return {
            "stage": self.stage,
            "step": self.step - 1,
            "context_tokens": self.prompt_length(self.acted_on),
            "context_text": Context(tuple(said)).text,
            "max_context_tokens": self.config.max_context_tokens,
            "shown_text": Context(tuple(shown)).text,
            "given_tokens": self.prompt_length(Context(given)),
            "kept_tokens": self.prompt_length(Context(tuple(kept))),
        }

    def prompt_length(self, context: Context) -> int:
        """Tokens of the prompt that asks for a response to `context`."""
        return context.num_tokens + len(self.chat.generation_prompt)

    def generate(self, context: Context, max_tokens: int, purpose="act") -> Play:
        """Asks for a response to `context`, records it, returns it as a message."""
        prompt = (*context.token_ids, *self.chat.generation_prompt)
        if len(prompt) > self.config.max_context_tokens:
            self.events.append(
                OverflowEvent(stage=self.stage, step=self.step, context_tokens=len(prompt))
            )
            raise Overflowed
        step, self.step = self.step, self.step + 1
        self.context_log.look(self.context, step)
        generated = yield Generate(
            context=context, prompt=prompt, max_tokens=max_tokens, stage=self.stage,
            step=step, purpose=purpose,
        )  # fmt: skip
        self.recorder.record(prompt, generated.token_ids, generated.log_probs, step)
        self.prompt_tokens.append(len(prompt))
        message = self.chat.response(generated.token_ids)
        if purpose == "summary":
            self.context_log.add_summary(len(self.transcript), message.text)
        else:
            self.context_log.add(len(self.transcript), message)
        self.transcript.append(TranscriptEntry(self.stage, step, purpose, message.text))
        return message

    def show(self, role: str, text: str, kind: Kind, given: bool | None = None) -> None:
        """Appends a message that the policy did not write.

        With `show_context_use` the policy reads below it how much of the budget is used. Tools,
        rewards and scripted agents see the message without that line.

        Args:
          role, text, kind: of the message.
          given: whether it would have come whatever the policy does; by default all but the
            results of calls.
        """
        message, told = self.chat.message(role, text, kind), text
        if self.config.show_context_use:
            message, told = self._with_context_use(message)
        if given or (given is None and kind is not Kind.TOOL_RESULT):
            self.given += (message,)
        self.context = self.context.append(message)
        self.context_log.add(len(self.transcript), message)
        self.transcript.append(TranscriptEntry(self.stage, self.step, kind.value, told))

    def _with_context_use(self, message: Message) -> tuple[Message, str]:
        """The message with a line below it, and the text of both.

        The line says how long the prompt is up to here, itself and what opens the next response
        included: what that is sampled after, unless another message comes first. How many tokens a
        number takes depends on the number: where none fits, the line is off by the one or two
        tokens between them.
        """
        told, told_message = message.text, message
        used = self.prompt_length(self.context.append(message))
        for _ in range(4):
            use = prompts.context_use_text(used, self.config.max_context_tokens)
            told = f"{message.text}\n{use}"
            told_message = self.chat.message(message.role, told, message.kind)
            said, used = used, self.prompt_length(self.context.append(told_message))
            if said == used:
                break
        return dataclasses.replace(told_message, text=message.text), told
