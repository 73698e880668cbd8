"""What an agent does in a turn of a conversation, as it happens, and the reply at its end.

Calls, retrievals and answers are the events of training (`protocol.events`); here is what else a
person wants to see.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from agemem_jax.protocol.events import (
    AnswerEvent,
    FormatEvent,
    OverflowEvent,
    RetrievalEvent,
    ToolEvent,
)


@dataclasses.dataclass(frozen=True)
class TextDelta:
    """New text of a response that is being sampled.

    Attributes:
      part: what it belongs to: "think" (the thought), "call" (JSON of calls), "answer", or
        "other" for text outside of the tags, summaries included.
      text: without the tags.
    """

    part: Literal["think", "call", "answer", "other"]
    text: str


@dataclasses.dataclass(frozen=True)
class ResponseEvent:
    """A response of the policy, whole.

    Attributes:
      step: index of the response in the conversation.
      purpose: "act", or "summary" for one that was written for `Summary_context`.
      text: as it was sampled, tags included.
      think: the thought in it; None without a complete one.
      prompt_tokens: length of the prompt that it was sampled after.
      sampled_tokens: its own length.
    """

    step: int
    purpose: str
    text: str
    think: str | None
    prompt_tokens: int
    sampled_tokens: int


@dataclasses.dataclass(frozen=True)
class ContextCutEvent:
    """The conversation had no room left, so that its oldest messages have left the context.

    Attributes:
      step: index of the next response.
      removed: their texts.
      tokens_before, tokens_after: prompt length around it.
    """

    step: int
    removed: tuple[str, ...]
    tokens_before: int
    tokens_after: int


AgentEvent = (
    TextDelta
    | ResponseEvent
    | ContextCutEvent
    | ToolEvent
    | RetrievalEvent
    | FormatEvent
    | AnswerEvent
    | OverflowEvent
)
Listener = Callable[[AgentEvent], None]


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of one message. `str(reply)` is its text.

    Attributes:
      text: the answer; empty where none was given.
      ended: "answered"; "acted" where the policy used its rounds without an answer, as one that
        was trained to store what it is told does; or "overflowed" where this turn alone
        outgrew the context.
      events: what happened, in order; `TextDelta`s are not among them.
      context_tokens: length of the conversation as a prompt now.
      max_context_tokens: the budget of that, T_max.
    """

    text: str
    ended: Literal["answered", "acted", "overflowed"]
    events: tuple[AgentEvent, ...]
    context_tokens: int
    max_context_tokens: int

    def __str__(self) -> str:
        return self.text

    @property
    def thoughts(self) -> tuple[str, ...]:
        """What was thought, a text for each response with a thought."""
        responses = (event for event in self.events if isinstance(event, ResponseEvent))
        return tuple(event.think for event in responses if event.think)

    @property
    def calls(self) -> tuple[ToolEvent, ...]:
        """The tool calls, failed ones included."""
        return tuple(event for event in self.events if isinstance(event, ToolEvent))
