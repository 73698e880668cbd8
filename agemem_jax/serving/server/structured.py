"""Constrained decoding: JSON that keeps to a schema, by llguidance's masks over the vocabulary.

What llguidance cannot compile is refused, never decoded without the constraint. JSON is
written on one line. As the limit of tokens comes near, strings, arrays and objects are closed
as soon as the schema allows it: an answer that is cut off is no JSON.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt32
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer

from agemem_jax.protocol.chat_formats import ChatEncoder

_ON_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_RESERVE = 128  # tokens before the limit from which on all is closed that can be
_MAX_SCHEMA = 65_536  # characters
_MAX_DEPTH = 32


class Schemas:
    """Makes constraints for the responses of one model."""

    def __init__(self, chat: ChatEncoder, vocabulary: int):
        """Reads the tokenizer, which takes a second where the vocabulary is large.

        Args:
          chat: of the model.
          vocabulary: how many tokens the model embeds.
        """
        size = len(chat.tokenizer.get_vocab())
        self._tokenizer: LLTokenizer = from_tokenizer(
            chat.tokenizer, n_vocab=max(size, vocabulary), eos_token=chat.stop_id
        )
        self._limits = LLParserLimits()
        self._texts = [chat.decode([i]) if i < size else "" for i in range(vocabulary)]
        self._ending = _Ending.of(self._texts, chat.stop_id)

    def compile(self, schema: Mapping[str, Any]) -> str:
        """A grammar for JSON values of a schema.

        Raises:
          ValueError: llguidance cannot keep to it; the sentence says what it does not know.
        """
        try:
            text = json.dumps(schema)
        except RecursionError:
            text = "[" * (_MAX_DEPTH + 1)
        if len(text) > _MAX_SCHEMA or _depth(schema) > _MAX_DEPTH:
            raise ValueError(
                f"The schema is too large: up to {_MAX_SCHEMA} characters and {_MAX_DEPTH} levels "
                "can be kept to."
            )
        grammar = LLMatcher.grammar_from_json_schema(text, overrides=_ON_ONE_LINE)
        wrong, messages = LLMatcher.validate_grammar_with_warnings(
            grammar, self._tokenizer, limits=self._limits
        )
        if wrong:
            said = " ".join(messages[0].split())
            raise ValueError(f"The schema cannot be kept to: {said[:300]}.")
        return grammar

    def constraint(self, grammar: str, max_tokens: int) -> "JSONConstraint":
        """The constraint of one response of up to so many tokens, for what `compile` gave."""
        matcher = LLMatcher(self._tokenizer, grammar, limits=self._limits, log_level=0)
        return JSONConstraint(matcher, self._texts, self._ending, max_tokens)


Mask = UInt32[np.ndarray, " word"]


@dataclasses.dataclass(frozen=True)
class _Ending:
    """Tokens that bring JSON nearer to its end; masks, the first that allows any counts.

    Attributes:
      in_string: those that end a string, or bring the marks that a format wants before its end.
      outside: those that end a list or an object, or a number, or all.
    """

    in_string: tuple[Mask, ...]
    outside: tuple[Mask, ...]

    @classmethod
    def of(cls, texts: Sequence[str], stop_id: int) -> "_Ending":
        """Of a vocabulary's texts."""

        def those(fits: Callable[[str], bool], *more: int) -> Mask:
            mask = np.zeros(-(-len(texts) // 32), np.uint32)
            for token in (*more, *(token for token, text in enumerate(texts) if fits(text))):
                mask[token // 32] |= np.uint32(1 << token % 32)
            return mask

        def only(text: str, characters: str) -> bool:
            return bool(text.strip()) and not text.strip(characters + " ")

        return cls(
            in_string=(
                those(lambda text: text.startswith('"') and only(text, '"]}')),
                those(lambda text: text in ("@", ":")),
            ),
            outside=(
                those(lambda text: only(text, "]}"), stop_id),
                those(lambda text: only(text, ",")),
                those(lambda text: only(text, '"')),
            ),
        )


class JSONConstraint:
    """Keeps one response to a grammar; see `rollout.constraints.Constraint`."""

    def __init__(self, matcher: LLMatcher, texts: Sequence[str], ending: _Ending, max_tokens: int):
        """Makes one; `texts` are those of all tokens."""
        self._matcher, self._texts, self._ending = matcher, texts, ending
        self._left = max_tokens
        self._reserve = min(_RESERVE, max_tokens // 2)
        self._in_string = self._escaped = False

    def mask(self) -> Mask:
        words = len(self._ending.outside[0])
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[:words]
        if self._left <= self._reserve:
            ending = self._ending.in_string if self._in_string else self._ending.outside
            near = (mask & tokens for tokens in ending)
            mask = next((tokens for tokens in near if tokens.any()), mask)
        # Where the library gave up (it bounds its work), the response ends: no JSON, as is found.
        return mask if mask.any() else self._ending.outside[0]

    def accept(self, token: int) -> None:
        self._left -= 1
        self._matcher.consume_token(token)
        for character in self._texts[token]:
            if self._escaped:
                self._escaped = False
            elif character == '"':
                self._in_string = not self._in_string
            elif character == "\\" and self._in_string:
                self._escaped = True


def _depth(value: Any) -> int:
    """Deepest nesting of a JSON value."""
    deepest, level = 0, [value]
    while level and deepest <= _MAX_DEPTH:
        nested: Sequence[Any] = [x for x in level if isinstance(x, Mapping | list)]
        deepest += bool(nested)
        level = [y for x in nested for y in (x.values() if isinstance(x, Mapping) else x)]
    return deepest
