"""What really happened in an episode, recorded as it happens.

Rewards and statistics are computed from these events and never from text that
names a tool: a call that failed leaves an event with `ok=False` and earns nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class RetrievedEntry:
    """One memory that a retrieval brought into the context.

    Attributes:
      memory_id: its id.
      content: its text.
      score: cosine similarity to the query, in [-1, 1]; where a method searches by words, how
        well they match.
    """

    memory_id: str
    content: str
    score: float


@dataclasses.dataclass(frozen=True)
class ToolEvent:
    """One tool call that was tried.

    Attributes:
      stage: 1, 2 or 3.
      step: index of the policy's action in the trajectory.
      name: tool name as in the schemas, or what the policy wrote if unknown.
      arguments: the arguments after alias resolution; raw if invalid.
      ok: whether the tool did its work.
      effect: what has become of the memory or the context (`protocol.tools.ToolResult`).
      error: what the policy was told when `ok` is false.
      memory_id: the entry added, updated or deleted.
      content: the content stored by an add or update, or the summary written.
      retrieved: the entries that a retrieval returned, best first.
      tokens_before, tokens_after: context length around the call, in tokens.
      previous: the content that the updated or deleted entry had before.
      removed: texts of the messages that the call took out of the context, the policy's own
        responses aside.
    """

    stage: int
    step: int
    name: str
    arguments: Mapping[str, Any]
    ok: bool
    effect: str | None = None
    error: str | None = None
    memory_id: str | None = None
    content: str | None = None
    retrieved: tuple[RetrievedEntry, ...] = ()
    tokens_before: int = 0
    tokens_after: int = 0
    previous: str | None = None
    removed: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the memory or the context is now different."""
        return self.effect not in (None, "retrieved")


@dataclasses.dataclass(frozen=True)
class RetrievalEvent:
    """Entries that the episode showed unasked, beside a message; no call of the policy.

    That of Stage 1 (algorithm 3) lets the policy see what is stale, those of Stages 2 and 3
    are what the RAG variants have instead of context tools (section 4.1). What a memory system
    looks up for its own calls of the model is one, too.

    Attributes:
      stage: 1, 2 or 3.
      step: index of the policy's next action, which is the first to see the entries.
      query: what was looked for, the message.
      retrieved: the entries, best first; none when nothing is stored.
    """

    stage: int
    step: int
    query: str
    retrieved: tuple[RetrievedEntry, ...]


@dataclasses.dataclass(frozen=True)
class UnaskedEditEvent:
    """What a method did to the context by itself, which no call of the policy asked for.

    Attributes:
      stage: 1, 2 or 3.
      step: index of the policy's next action.
      edit: "trimmed", messages are gone; "summarised", a summary that the policy wrote stands for
        them; "archived", they are an entry of the long-term memory now.
      removed: texts of the messages that left the context, the policy's own responses included.
      content: the summary, or the entry.
      memory_id: the entry archived; None where the memory took none.
      error: why it took none.
      tokens_before, tokens_after: context length around the edit, in tokens.
    """

    stage: int
    step: int
    edit: Literal["trimmed", "summarised", "archived"]
    removed: tuple[str, ...]
    content: str | None = None
    memory_id: str | None = None
    error: str | None = None
    tokens_before: int = 0
    tokens_after: int = 0


@dataclasses.dataclass(frozen=True)
class DroppedMessagesEvent:
    """Stage 1 left out the last `dropped` messages of the task, those past its limit."""

    stage: int
    step: int
    dropped: int


@dataclasses.dataclass(frozen=True)
class FormatEvent:
    """A response that the parser could not read as the protocol asks."""

    stage: int
    step: int
    reason: str


@dataclasses.dataclass(frozen=True)
class AnswerEvent:
    """An `<answer>` of Stage 1 or 2, or in a conversation, which ends the policy's turn.

    Attributes:
      stage: 1, 2 or 3.
      step: index of the policy's action.
      answer: its text.
    """

    stage: int
    step: int
    answer: str


@dataclasses.dataclass(frozen=True)
class OutcomeEvent:
    """How the goal of Stage 3 ended; what rewards and reports read, whatever the goal was.

    There is none where a question was not answered, or an environment never entered.

    Attributes:
      context_tokens: prompt length when the last action was produced, in tokens.
      context_text: contents of the context when the last action was produced, the
        system message and the goal left out.
      max_context_tokens: T_max, the budget of the context.
      answer: the answer to a question, else None.
      score: 1 where an environment's goal was reached, else 0; None for a question, which
        judges score.
      progress: the part of an environment's goal that was reached, in [0, 1]; else None.
      actions: tried in an environment.
      valid_actions: of these, the ones that could be done.
      shown_text: `context_text` without the policy's own responses; its summaries stay. None in
        records of earlier versions.
      given_tokens: what the last prompt would have been if nothing had been removed and the
        policy had said and looked up nothing: the system message, and what Stages 2 and 3 showed
        of themselves, observations of an environment included. None in earlier records.
      kept_tokens: what the last prompt would have been if the policy had removed and summarised
        what it did, and had otherwise said and looked up nothing. None in earlier records.
    """

    stage: int
    step: int
    context_tokens: int
    context_text: str
    max_context_tokens: int
    answer: str | None = None
    score: float | None = None
    progress: float | None = None
    actions: int = 0
    valid_actions: int = 0
    shown_text: str | None = None
    given_tokens: int | None = None
    kept_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class OverflowEvent:
    """The context passed the token budget T_max; the episode ends."""

    stage: int
    step: int
    context_tokens: int


@dataclasses.dataclass(frozen=True)
class TrimmedPromptEvent:
    """A memory system's own prompt passed the token budget T_max, and was cut to fit.

    Attributes:
      stage: 1, 2 or 3.
      step: index of the response that it asks for.
      tokens: how long the prompt was before, in tokens.
    """

    stage: int
    step: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class RoundLimitEvent:
    """Stage 3 used its rounds, or its actions in an environment, without reaching an end."""

    stage: int
    step: int
    rounds: int


Event = (
    ToolEvent
    | RetrievalEvent
    | UnaskedEditEvent
    | DroppedMessagesEvent
    | FormatEvent
    | AnswerEvent
    | OutcomeEvent
    | OverflowEvent
    | TrimmedPromptEvent
    | RoundLimitEvent
)
