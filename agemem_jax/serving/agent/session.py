"""A conversation as an episode without an end: the rules of training, a turn at a time.

What a person tells is shown as Stage 1 shows messages, with the memories nearest to it; what a
person asks as Stage 3 shows its question. Differences from an episode: the context is never
reset; turns have answers; what overflows loses its oldest messages instead of ending; and a
crash of a tool on the host becomes a sentence that the policy reads.
"""

from agemem_jax.protocol import prompts
from agemem_jax.protocol.messages import Context, Kind, Message
from agemem_jax.protocol.parser import InvalidCall, parse
from agemem_jax.protocol.tools import ToolCall, ToolResult
from agemem_jax.rollout.context_log import ContextLog
from agemem_jax.rollout.episode import Episode, EpisodeRules, Overflowed
from agemem_jax.rollout.host_calls import ToolFault
from agemem_jax.rollout.tool_use import Play
from agemem_jax.serving.agent.agent_events import ContextCutEvent, Reply, ResponseEvent
from agemem_jax.tasks.task import Question, Task


class _NothingRecorded:
    """In place of segments, which only training reads, and which would grow for ever."""

    def record(self, *_) -> None:
        pass


class Session(Episode):
    """One conversation: its context, and what has happened in the turn under way."""

    def __init__(self, rules: EpisodeRules):
        super().__init__(rules, Task(task_id="conversation", goal=Question("", "")))
        self.recorder = _NothingRecorded()
        self.told: Message | None = None  # the message of the turn under way

    @property
    def context_tokens(self) -> int:
        """Length of the prompt that asks for a response now."""
        return self.prompt_length(self.context)

    def reset(self) -> None:
        """Empties the context; memories stay."""
        self.context = Context((self.system,))

    def turn(self, text: str, asked: bool, memory: dict[str, str]) -> Play:
        """One message and what the policy does with it, to be driven like an episode.

        Args:
          text: of the message.
          asked: whether it is a question, to be shown and answered as in Stage 3.
          memory: contents of the long-term memory by id.

        Returns:
          The `Reply`.

        Raises:
          ValueError: the message alone is longer than the context may be. Nothing has happened.
        """
        self.stage, self.memory = (3 if asked else 1), memory
        self.events, self.transcript, self.prompt_tokens = [], [], []
        self.context_log = ContextLog()  # of this turn's transcript, or it would grow for ever
        shown = prompts.query_text(text) if asked else text
        self._check_length(shown)
        if asked:
            shown = yield from self.with_step_retrieval(shown)
        else:
            shown = yield from self.with_retrieval(shown, self.config.auto_retrieve)
        # Not as a QUERY, which no tool could ever take out of the context again.
        self.show("user", shown, Kind.TASK_MESSAGE)
        self.told = self.context.messages[-1]
        rounds = self.config.max_rounds if asked else self.config.rounds_per_message
        try:
            answer = yield from self.respond(rounds)
            ended = "acted" if answer is None else "answered"
        except Overflowed:
            answer, ended = None, "overflowed"
        return Reply(
            answer or "", ended, tuple(self.events), self.context_tokens,
            self.config.max_context_tokens,
        )  # fmt: skip

    def act(self, again: bool = True) -> Play:
        self._make_room()
        return (yield from super().act(again))

    def generate(self, context: Context, max_tokens: int, purpose: str = "act") -> Play:
        step = self.step
        message = yield from super().generate(context, max_tokens, purpose)
        think = parse(message.text, self.tools).think if purpose == "act" else None
        closing = len(self.chat.response(()).token_ids)
        self.events.append(
            ResponseEvent(
                step=step, purpose=purpose, text=message.text, think=think,
                prompt_tokens=self.prompt_tokens[-1],
                sampled_tokens=len(message.token_ids) - closing,
            )
        )  # fmt: skip
        return message

    def run_tool(self, call: ToolCall | InvalidCall) -> Play:
        try:
            return (yield from super().run_tool(call))
        except ToolFault as fault:
            return ToolResult(f"{fault}.", ok=False)

    def _check_length(self, text: str) -> None:
        alone = Context((self.system, self.chat.message("user", text, Kind.TASK_MESSAGE)))
        if self.prompt_length(alone) > self.config.max_context_tokens:
            raise ValueError(
                f"This message makes a prompt of {self.prompt_length(alone)} tokens by itself, and "
                f"the context holds {self.config.max_context_tokens}; say it in parts."
            )

    def _make_room(self) -> None:
        """Drops the oldest messages of a prompt that is too long, down to half of the budget.

        Down to half, so that this is rare: what the engine has computed behind them is lost. The
        system message stays, and so do this turn's own messages.
        """
        budget, before = self.config.max_context_tokens, self.context
        if self.prompt_length(before) <= budget:
            return
        messages = list(before.messages)
        own = next((i for i, m in enumerate(messages) if m is self.told), len(messages) - 1)
        dropped = 1
        while dropped < own and self.prompt_length(_without(before, dropped)) > budget // 2:
            dropped += 1
        if own > 1:
            self.context = _without(before, dropped)
            self.events.append(
                ContextCutEvent(
                    self.step, tuple(m.text for m in messages[1:dropped]),
                    self.prompt_length(before), self.prompt_length(self.context),
                )
            )  # fmt: skip


def _without(context: Context, end: int) -> Context:
    """Without the messages behind the system message up to `end`."""
    return Context((context.messages[0], *context.messages[end:]))
