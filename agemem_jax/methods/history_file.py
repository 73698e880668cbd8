"""A history as a file of passages, word for word, and searches over it: BM25, and grep."""

import re
from collections.abc import Sequence

from agemem_jax.protocol.events import RetrievedEntry

_WORD = re.compile(r"\w+")


class HistoryFile:
    """Passages in the order in which they were said.

    A message is one passage, or, where it has several lines and more than `max_words` words,
    several of whole lines, each below the first line of the message, which mostly says when it
    was and who is talking.

    Attributes:
      passages: the texts by id, such as "line_3"; ids count from 1.
    """

    def __init__(self, max_words: int = 60):
        self.passages: dict[str, str] = {}
        self._max_words = max_words
        self._ranking = None  # made again when something was added

    def write(self, message: str) -> None:
        """Adds a message at the end."""
        for passage in _split(message, self._max_words):
            self.passages[f"line_{len(self.passages) + 1}"] = passage
        self._ranking = None

    def search(self, query: str, top_k: int) -> tuple[RetrievedEntry, ...]:
        """The passages that BM25 ranks first, best first; those without a word of it never."""
        known = {word for passage in self.passages.values() for word in _words(passage)}
        words = [word for word in _words(query) if word in known]
        if not words:
            return ()
        scores = self._bm25().get_scores(words)
        ids = list(self.passages)
        best = sorted(range(len(ids)), key=lambda i: (-scores[i], i))[:top_k]
        return tuple(
            RetrievedEntry(ids[i], self.passages[ids[i]], float(scores[i]))
            for i in best
            if scores[i] > 0
        )

    def grep(self, text: str, most: int) -> tuple[RetrievedEntry, ...]:
        """The first passages that contain `text`, upper and lower case ignored, in order."""
        wanted = " ".join(text.lower().split())
        found = [
            RetrievedEntry(name, passage, 1.0)
            for name, passage in self.passages.items()
            if wanted in " ".join(passage.lower().split())
        ]
        return tuple(found[:most])

    def _bm25(self):
        if self._ranking is None:
            import bm25s  # takes a while to import, which only this method waits for

            self._ranking = bm25s.BM25()
            tokens = [_words(passage) for passage in self.passages.values()]
            self._ranking.index(tokens, show_progress=False)
        return self._ranking


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _split(message: str, max_words: int) -> Sequence[str]:
    lines = [line for line in message.splitlines() if line.strip()]
    if len(lines) < 3 or len(message.split()) <= max_words:
        return (message,) if message.strip() else ()
    head, passages, current = lines[0], [], []
    for line in lines[1:]:
        if current and len(" ".join((*current, line)).split()) > max_words:
            passages.append(current)
            current = []
        current.append(line)
    return ["\n".join((head, *part)) for part in (*passages, current)]
