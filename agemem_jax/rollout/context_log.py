"""Which messages of a transcript an episode's prompts held, for people who read it later.

A message that an edit took out of the context never comes back, so that one number says it all:
the first step whose prompt was without it. What a reset between stages takes is not told; that
follows from the stages.
"""

from collections.abc import Iterable

from agemem_jax.protocol import prompts
from agemem_jax.protocol.messages import Context, Kind, Message


class ContextLog:
    """Looks at the context before each step; `left` is what it has seen."""

    def __init__(self):
        self._held: dict[int, Message] = {}  # by place in the transcript
        self._summaries: dict[int, str] = {}  # written, and not seen in the context yet
        self._left: dict[int, int] = {}

    def add(self, place: int, message: Message) -> None:
        """The entry at `place` of the transcript is this message of the context."""
        self._held[place] = message

    def add_summary(self, place: int, text: str) -> None:
        """The entry at `place` is a summary, which may come into the context as a new message."""
        self._summaries[place] = prompts.summary_text(text.strip())

    def look(self, context: Context, step: int) -> None:
        """Notes what is gone from `context`, whose next generation is `step`."""
        inside = {id(message) for message in context.messages}
        known = {id(message) for message in self._held.values()}
        for message in context.messages:
            if message.kind is Kind.SUMMARY and id(message) not in known:
                places = [p for p, text in self._summaries.items() if text == message.text]
                if places:
                    self._held[places[0]] = message
                    del self._summaries[places[0]]
        for place in [p for p, message in self._held.items() if id(message) not in inside]:
            self._left[place] = step
            del self._held[place]

    def reset(self) -> None:
        """The context begins anew; what it held until now has not been edited away."""
        self._held.clear()
        self._summaries.clear()

    def left(self, entries: Iterable) -> list[int | None]:
        """For each of the transcript's entries, the first step without it; None where it stayed."""
        return [self._left.get(place) for place, _ in enumerate(entries)]
