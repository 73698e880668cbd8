"""What a response says, read while it comes: text, calls of functions, how it ended."""

import dataclasses
import json
from typing import Any, Literal

from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.serving.server import tool_text
from agemem_jax.serving.server.scheduler import Failure, Update
from agemem_jax.serving.server.text_stream import TextStream, begun


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a response is to be read as.

    Attributes:
      functions: names of those that it may call.
      forced: it is a call, and nothing else.
      one_call: only the first call counts.
      json: it is JSON.
      stops: texts that end it.
    """

    functions: frozenset[str] = frozenset()
    forced: bool = False
    one_call: bool = False
    json: bool = False
    stops: tuple[str, ...] = ()


class Reply:
    """One response, as far as it has come.

    Attributes:
      text: of it, without calls.
      calls: in OpenAI's form; known at the end.
      finish: why it ended; None before.
      tokens: how many were sampled.
      cached: tokens of the prompt that caches held; known at the end.
    """

    def __init__(self, chat: ChatEncoder, expected: Expected):
        self._chat, self._expected = chat, expected
        self._stream = TextStream(chat.decode, chat.stop_ids, expected.stops)
        self.text = ""
        self.calls: list[dict[str, Any]] = []
        self.finish: Literal["stop", "length", "tool_calls"] | None = None
        self.tokens = 0
        self.cached = 0

    def take(self, update: Update) -> str:
        """Reads an update; returns new text.

        Raises:
          Failure: the response was to be JSON, is at its end, and is none.
        """
        self.tokens += len(update.token_ids)
        self._stream.push(update.token_ids, update.done)
        whole = self._stream.text
        if update.done:
            self.finish = "stop" if self._stream.stopped else "length"
            self.cached = update.cached
            whole = self._finish(whole)
        elif self._expected.forced:
            whole = ""
        elif self._expected.functions:
            whole = whole.partition(tool_text.OPENING)[0]
            whole = whole[: len(whole) - begun(whole, [tool_text.OPENING])].rstrip()
        new = whole[len(self.text) :]
        self.text += new
        return new

    def _finish(self, whole: str) -> str:
        expected = self._expected
        if expected.forced or expected.json:
            try:
                value = json.loads(whole)
            except ValueError:
                if self.finish == "stop":
                    raise Failure("The schema could not be kept to.") from None
                return "" if expected.forced else whole
            if not expected.forced:
                return whole
            call = tool_text.read_call(value, expected.functions)
            if call is None:
                raise Failure("A function's arguments must be an object.")
            whole, self.calls = "", [call]
        elif expected.functions:
            whole, self.calls = tool_text.find_calls(whole, expected.functions)
        self.calls = self.calls[:1] if expected.one_call else self.calls
        if self.calls:
            self.finish = "tool_calls"
        return whole

    def log_probs(self, update: Update) -> list[dict[str, Any]]:
        """An update's tokens and their log-probabilities, in OpenAI's form."""
        told = []
        for token, log_prob in zip(update.token_ids, update.log_probs, strict=True):
            text = self._chat.decode([token])
            data = list(text.encode("utf-8", "replace"))
            told.append({"token": text, "logprob": log_prob, "bytes": data, "top_logprobs": []})
        return told


def usage(prompt: int, replies: list[Reply]) -> dict[str, Any]:
    """Tokens that a request took."""
    sampled = sum(reply.tokens for reply in replies)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": replies[0].cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
