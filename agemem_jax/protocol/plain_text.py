"""Token ids of contents between delimiters, in which special tokens stay text.

What a user, a tool or a memory says may spell any special token of the tokenizer; its id
comes from the delimiters of a chat format alone.
"""

import re
import secrets
from collections.abc import Iterable

import tokenizers

# Some tokenizers list these as ordinary additions, such as Qwen2.5's <|file_sep|>.
_CONTROL = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)
_BRACKETED = re.compile(r"<.*>|\[.*\]", re.DOTALL)


class PlainTextEncoder:
    """Encodes delimiters and contents as one text, as the tokenizer would.

    Works on a copy of the tokenizer that matches no special token. The delimiters' own are
    written under names that no contents can know, with the same settings, so that text is
    cut around them where the tokenizer cuts it. Added tokens that are not special, such as
    `<tool_call>`, keep their ids. Holds nothing that changes, so threads may share it.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, delimiters: Iterable[str]):
        """Copies `tokenizer`, to be used with the special tokens of `delimiters`."""
        delimiters = tuple(delimiters)
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special = {
            index: added
            for index, added in self._tokenizer.get_added_tokens_decoder().items()
            if added.special
            or _CONTROL.fullmatch(added.content)
            or (_BRACKETED.fullmatch(added.content) and any(added.content in d for d in delimiters))
        }
        self._tokenizer.add_special_tokens(
            [_changed(added, added.content, special=True) for added in special.values()]
        )
        self._tokenizer.encode_special_tokens = True
        secret = secrets.token_hex(8)
        self._special = {index: added.content for index, added in special.items()}
        self._names = {added.content: f"\ue000{secret}-{i}\ue001" for i, added in special.items()}
        self._cut = f"\ue000{secret}\ue001"
        self._tokenizer.add_tokens(
            [
                *(_changed(added, self._names[added.content]) for added in special.values()),
                tokenizers.AddedToken(self._cut, normalized=False),
            ]
        )
        self._ids: dict[int, int | None] = {
            self._tokenizer.token_to_id(self._names[added.content]): index
            for index, added in special.items()
        }
        self._ids[self._tokenizer.token_to_id(self._cut)] = None
        longest_first = sorted(self._names, key=len, reverse=True)
        self._in_delimiters = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode(self, before: str, contents: str, after: str) -> list[int]:
        """Ids of the three together; those of special tokens come from the outer two alone.

        The only exception is the token that stands for what a tokenizer has no token for.
        """
        before, after = self._renamed(before), self._renamed(after)
        ids = self._ids_of(before + contents + after)
        found = self._special.keys() & ids
        if found:  # reached through the vocabulary, as by unigram models: cut inside
            for text in (self._special[index] for index in found):
                if len(text) > 1:
                    contents = contents.replace(text, f"{text[0]}{self._cut}{text[1:]}")
            ids = self._ids_of(before + contents + after)
        named = (self._ids.get(index, index) for index in ids)
        return [index for index in named if index is not None]

    def _ids_of(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _renamed(self, delimiter: str) -> str:
        return self._in_delimiters.sub(lambda found: self._names[found[0]], delimiter)


def _changed(
    added: tokenizers.AddedToken, content: str, *, special: bool = False
) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        content, single_word=added.single_word, lstrip=added.lstrip, rstrip=added.rstrip,
        normalized=added.normalized, special=special,
    )  # fmt: skip
