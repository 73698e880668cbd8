"""Chat formats as token ids: how a message is wrapped for one family of models."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from agemem_jax.protocol.messages import Kind, Message


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that this library uses."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str: ...

    def convert_tokens_to_ids(self, token: str) -> int: ...


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """Delimiters around a message, as text; ids follow from the tokenizer.

    Attributes:
      name: the name that a backbone refers to.
      header: text before the content, with `{role}` to fill in.
      footer: text after the content of a message.
      stop: the special token with which the assistant ends its turn.
    """

    name: str
    header: str
    footer: str
    stop: str


CHATML = ChatFormat(
    name="chatml",
    header="<|im_start|>{role}\n",
    footer="<|im_end|>\n",
    stop="<|im_end|>",
)

CHAT_FORMATS = {CHATML.name: CHATML}


class ChatEncoder:
    """Turns contents into messages for one tokenizer and chat format."""

    def __init__(self, tokenizer: Tokenizer, chat_format: ChatFormat):
        self.tokenizer = tokenizer
        self.format = chat_format
        self.stop_id: int = tokenizer.convert_tokens_to_ids(chat_format.stop)
        self._footer = tuple(self.encode(chat_format.footer))
        self._after_stop = self._footer[self._footer.index(self.stop_id) + 1 :]
        self.generation_prompt: tuple[int, ...] = tuple(
            self.encode(chat_format.header.format(role="assistant"))
        )

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def message(self, role: str, text: str, kind: Kind) -> Message:
        """Tokenises `text` once, special tokens inside it disarmed."""
        plain = self._disarm(text)
        header = self.encode(self.format.header.format(role=role))
        ids = (*header, *self.encode(plain), *self._footer)
        return Message(role=role, text=text, token_ids=ids, kind=kind)

    def response(self, token_ids: Sequence[int]) -> Message:
        """Wraps sampled ids, keeping each of them.

        Args:
          token_ids: what was sampled after `generation_prompt`; ends with the stop
            token unless the length limit cut it, in which case one is appended.
        """
        sampled = tuple(token_ids)
        body = sampled[:-1] if sampled and sampled[-1] == self.stop_id else sampled
        ids = (*self.generation_prompt, *body, self.stop_id, *self._after_stop)
        return Message(role="assistant", text=self.decode(body), token_ids=ids, kind=Kind.RESPONSE)

    def _disarm(self, text: str) -> str:
        """Keeps contents from forging delimiters such as `<|im_end|>`."""
        return text.replace("<|", "< |")
