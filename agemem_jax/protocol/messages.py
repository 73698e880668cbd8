"""The short-term context C_t as messages that carry their token ids.

A message is tokenised once, when it enters the context; a sampled response keeps
the ids that were sampled. The prompt is the concatenation of message ids, so what
is trained on is what was sampled (nothing is ever tokenised again).
"""

import dataclasses
import enum


class Kind(enum.Enum):
    """What a message is, which decides what context tools may do with it."""

    SYSTEM = "system"
    TASK_MESSAGE = "task_message"  # Stage 1 conversation, I_q
    DISTRACTOR = "distractor"  # Stage 2
    QUERY = "query"  # Stage 3, q
    OBSERVATION = "observation"  # what an environment shows first
    RESPONSE = "response"  # sampled from the policy
    TOOL_RESULT = "tool_result"
    SUMMARY = "summary"


PINNED = frozenset({Kind.SYSTEM, Kind.QUERY})


@dataclasses.dataclass(frozen=True)
class Message:
    """One message of the context.

    Attributes:
      role: "system", "user" or "assistant".
      text: the content, without the chat format's delimiters.
      token_ids: the whole message as the model sees it, delimiters included.
      kind: where it came from.
      closing_ids: what ends the turn, for a message that leaves it open; else None.
      continued_ids: the message behind one that left a turn of its role open; None where
        the chat format has no such thing.
    """

    role: str
    text: str
    token_ids: tuple[int, ...]
    kind: Kind
    closing_ids: tuple[int, ...] | None = None
    continued_ids: tuple[int, ...] | None = None

    @property
    def pinned(self) -> bool:
        """True for messages that no filter or summary may remove (section 3.2)."""
        return self.kind in PINNED


@dataclasses.dataclass(frozen=True)
class Context:
    """An immutable list of messages: every edit returns a new context."""

    messages: tuple[Message, ...] = ()

    def append(self, message: Message) -> "Context":
        return Context(self.messages + (message,))

    def without(self, indices: frozenset[int]) -> "Context":
        """Drops the messages at `indices`; pinned ones stay whatever is asked."""
        return Context(
            tuple(
                message
                for index, message in enumerate(self.messages)
                if message.pinned or index not in indices
            )
        )

    def replace(self, indices: frozenset[int], message: Message) -> "Context":
        """Puts `message` where the first removed message stood; pinned ones stay."""
        removed = [i for i in sorted(indices) if not self.messages[i].pinned]
        if not removed:
            return self
        kept: list[Message] = []
        for index, old in enumerate(self.messages):
            if index == removed[0]:
                kept.append(message)
            if index not in removed:
                kept.append(old)
        return Context(tuple(kept))

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The prompt. A turn that a message left open is continued by the next, or closed."""
        ids: list[int] = []
        closing = None
        for message in self.messages:
            if closing is None:
                ids += message.token_ids
            elif message.continued_ids is not None:
                ids += message.continued_ids
            else:
                ids += (*closing, *message.token_ids)
            closing = message.closing_ids
        return tuple(ids)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def text(self) -> str:
        """The contents joined by newlines, for judges and reports."""
        return "\n".join(message.text for message in self.messages)
