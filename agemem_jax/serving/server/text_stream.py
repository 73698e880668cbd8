"""Text of a response as its tokens come: only what later tokens cannot change is given out."""

from collections.abc import Callable, Collection, Iterable, Sequence

_BROKEN = "\ufffd"  # what bytes of a character that is not whole yet read as


class TextStream:
    """Turns tokens into text, and cuts it before the first text that ends it.

    Attributes:
      text: what was given out so far.
      stopped: whether a stop token or a stop text came.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop_ids: Collection[int],
        stops: Sequence[str] = (),
    ):
        self._decode, self._stop_ids, self._stops = decode, frozenset(stop_ids), tuple(stops)
        self._tokens: list[int] = []
        self.text = ""
        self.stopped = False

    def push(self, tokens: Iterable[int], done: bool = False) -> str:
        """Takes new tokens; returns text that is new and will stay.

        Args:
          tokens: what was sampled.
          done: whether these were the last, so that nothing is held back.
        """
        for token in tokens:
            if token in self._stop_ids:
                self.stopped = True
            else:
                self._tokens.append(token)
        whole = self._decode(self._tokens) if self._tokens else ""
        places = [whole.find(stop) for stop in self._stops]
        found = [place for place in places if place >= 0]
        if found:
            whole, self.stopped = whole[: min(found)], True
        elif not done:
            whole = whole.rstrip(_BROKEN)
            whole = whole[: len(whole) - begun(whole, self._stops)]
        new = whole[len(self.text) :]
        self.text += new
        return new


def begun(text: str, marks: Iterable[str]) -> int:
    """Length of the longest end of a text that one of the marks begins with, short of all of it."""
    longest = 0
    for mark in marks:
        for size in range(min(len(mark) - 1, len(text)), longest, -1):
            if text.endswith(mark[:size]):
                longest = size
                break
    return longest
