"""What a conversation looks like in the terminal: thoughts folded, each memory operation a line."""

import datetime
import re
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agemem_jax.protocol.events import FormatEvent, RetrievalEvent, ToolEvent
from agemem_jax.serving.agent.agent_events import (
    AgentEvent,
    ContextCutEvent,
    Reply,
    ResponseEvent,
    TextDelta,
)
from agemem_jax.serving.memory.user_memory import MemoryEntry

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_WRITTEN = 500  # characters of a response that is not as it should be
_ENDS = {
    "acted": "(no answer: it did what is above)",
    "overflowed": "(no answer: this turn alone outgrew the context)",
}


def plain(text: str) -> str:
    """A text that a terminal shows and does not obey."""
    return _CONTROL.sub("\ufffd", text)


class View:
    """Writes a conversation to a console as it happens.

    Attributes:
      thoughts: whether they are shown unfolded.
    """

    def __init__(self, console: Console, thoughts: bool = False):
        self.console, self.thoughts = console, thoughts
        self._status = console.status("")
        self._streamed: str | None = None  # of the answer that is being shown
        self._written: str | None = None  # by the last response, where it was not shown yet

    def begin(self, agent) -> None:
        """Says who is there."""
        count = len(agent.memory)
        memories = "1 memory" if count == 1 else f"{count} memories"
        self.note(f"{plain(agent.user)} has {memories}. /help lists commands.")

    def say(self, who: str, text: str) -> None:
        """A message, by whom."""
        self.console.print(Text.assemble((f"{plain(who)}> ", "bold"), plain(text)))

    def note(self, text: str, style: str = "dim") -> None:
        """Something that nobody said."""
        self.console.print(Text(plain(text), style))

    def wait(self) -> None:
        """The agent has its turn."""
        self._streamed = None
        if self.console.is_terminal:
            self._status.update("thinking")
            self._status.start()

    def stop(self) -> None:
        """The agent's turn is over, however it ended."""
        self._status.stop()
        self._end_stream()

    def show(self, event: AgentEvent) -> None:
        """One event of a turn."""
        match event:
            case TextDelta(part="answer", text=text) if self.console.is_terminal:
                self._stream(text)
            case TextDelta():
                pass
            case ResponseEvent(purpose="act", think=think, text=text):
                self._end_stream()
                self._written = text
                if think and self.thoughts:
                    self._line("…", think, "dim italic")
                elif think:
                    words = len(think.split())
                    self._line("…", f"thought, {words} word{'s' * (words != 1)}", "dim")
            case RetrievalEvent(retrieved=entries) if entries:
                self._line("<", "beside the message:", "dim")
                self._retrieved(entries)
            case ToolEvent():
                self._call(event)
            case FormatEvent(reason=reason):
                if self._written is not None:  # nobody should have to guess
                    self._line("|", self._written[:_WRITTEN], "dim")
                    self._written = None
                self._line("!", f"not as the protocol asks: {reason}", "yellow")
            case ContextCutEvent(removed=removed, tokens_before=before, tokens_after=after):
                told = (
                    f"{len(removed)} oldest messages left the context: {before} to {after} tokens"
                )
                self._line("x", told, "yellow")

    def finish(self, reply: Reply, memories: int) -> None:
        """The end of a turn: the answer, and how full the context is."""
        streamed = self._streamed is not None and self._streamed.strip() == reply.text
        self.stop()
        if reply.text and not streamed:
            self.say("agent", reply.text)
        elif not reply.text:
            self.note(_ENDS[reply.ended])
        share = reply.context_tokens / reply.max_context_tokens
        bar = "#" * min(20, round(20 * share))
        self.note(
            f"[{bar:-<20}] context {reply.context_tokens} of {reply.max_context_tokens} tokens, "
            f"{memories} memor{'y' if memories == 1 else 'ies'}"
        )

    def entries(self, entries: Iterable[MemoryEntry]) -> None:
        """Memories as a table, with scores where they were searched for."""
        entries = list(entries)
        if not entries:
            self.note("No memories.")
            return
        searched = entries[0].score is not None
        table = Table("id", "stored", "changed", *(["score"] if searched else []), "content")
        for entry in entries:
            score = [f"{entry.score:.2f}"] if searched else []
            row = (entry.memory_id, _when(entry.created), _when(entry.modified), *score)
            table.add_row(*row, Text(plain(entry.content)))
        self.console.print(table)

    def _call(self, event: ToolEvent) -> None:
        if not event.ok:
            self._line("!", f"{event.name} failed: {event.error}", "yellow")
            return
        match event.effect:
            case "added":
                self._line("+", f"{event.memory_id}  {event.content}", "green")
            case "updated":
                was = "" if event.previous is None else f"  (was: {event.previous})"
                self._line("~", f"{event.memory_id}  {event.content}{was}", "cyan")
            case "deleted":
                was = "" if event.previous is None else f"  {event.previous}"
                self._line("-", f"{event.memory_id}{was}", "red")
            case "retrieved":
                self._line("?", f"looked for: {event.arguments.get('query', '')}", "blue")
                self._retrieved(event.retrieved)
            case "reduced":
                tokens = f"{event.tokens_before} to {event.tokens_after} tokens"
                summary = "" if event.content is None else f": {event.content}"
                self._line("x", f"{event.name}, {tokens}{summary}", "magenta")
            case _:
                self._line("=", f"{event.name} changed nothing", "dim")

    def _retrieved(self, entries) -> None:
        for entry in entries:
            self._line(" ", f"{entry.memory_id}  {entry.content}  ({entry.score:.2f})", "dim")

    def _line(self, mark: str, text: str, style: str) -> None:
        self._end_stream()
        self.console.print(Text(f"  {mark} {' '.join(plain(text).split())}", style))

    def _stream(self, text: str) -> None:
        if self._streamed is None:
            self._status.stop()
            self.console.print(Text("agent> ", "bold"), end="")
            self._streamed, text = "", text.lstrip()
        self._streamed += text
        self.console.print(Text(plain(text)), end="", soft_wrap=True)

    def _end_stream(self) -> None:
        if self._streamed is not None and not self._streamed.endswith("\n"):
            self.console.print()
            self._streamed += "\n"


def _when(seconds: int | None) -> str:
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
