"""A response as it is sampled, in parts: what is thought, what is called, what is answered."""

from collections.abc import Callable, Collection, Iterator, Sequence

from agemem_jax.serving.agent.agent_events import TextDelta
from agemem_jax.serving.server.text_stream import TextStream, begun

_PARTS = {"<think>": "think", "<tool_call>": "call", "<answer>": "answer"}
_CLOSING = {"think": "</think>", "call": "</tool_call>", "answer": "</answer>"}


class ResponseStream:
    """Splits the text of one response by its tags while it comes.

    It shows a person what is going on; what is done follows from the whole response
    (`protocol.parser`), which reads tags more carefully.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop_ids: Collection[int]):
        self._stream = TextStream(decode, stop_ids)
        self._part = "other"
        self._left = ""  # what may be the beginning of a tag
        self._known = 0  # tokens

    def push(self, tokens: Sequence[int], done: bool = False) -> Iterator[TextDelta]:
        """The new text.

        Args:
          tokens: all tokens of the response so far.
          done: whether these are all.
        """
        new, self._known = tokens[self._known :], len(tokens)
        text = self._left + self._stream.push(new, done)
        while text:
            marks = tuple(_PARTS) if self._part == "other" else (_CLOSING[self._part],)
            places = {text.find(mark): mark for mark in marks if mark in text}
            if places:
                place = min(places)
                yield from self._told(text[:place])
                mark = places[place]
                self._part = _PARTS.get(mark, "other")
                text = text[place + len(mark) :]
            else:
                kept = 0 if done else begun(text, marks)
                yield from self._told(text[: len(text) - kept])
                self._left = text[len(text) - kept :]
                return
        self._left = ""

    def _told(self, text: str) -> Iterator[TextDelta]:
        if text:
            yield TextDelta(self._part, text)
