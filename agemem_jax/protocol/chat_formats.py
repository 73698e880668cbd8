"""Chat formats as token ids: how a message is wrapped for one family of models.

A format is text around contents; ids follow from the tokenizer. `check_template` compares
what comes out with the chat template that a tokenizer brings along.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tokenizers

from agemem_jax.protocol.messages import Context, Kind, Message
from agemem_jax.protocol.plain_text import PlainTextEncoder


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that this library uses."""

    chat_template: str | None
    backend_tokenizer: tokenizers.Tokenizer

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = ...) -> str: ...

    def get_vocab(self) -> dict[str, int]: ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Turn:
    """What stands around the contents of one role."""

    header: str
    footer: str


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """Delimiters around messages, as text.

    Attributes:
      name: the name that a configuration refers to.
      mark: the special token by which a tokenizer is seen to be made for this format.
      system, user, assistant: what stands around their contents.
      stop: the special token with which the assistant ends its turn.
      other_stops: further special tokens that end a response, where a tokenizer has them.
      opens_user_turn: the system text stands at the start of the first user turn, which
        it leaves open: `system.footer` parts it from the user's text.
      trims: contents lose the white space around them.
      template: the same format in the template language of transformers, to go with
        exported models whose tokenizer has none. It is given `messages` and
        `add_generation_prompt`.
      template_options: what a tokenizer's own template is called with.
      template_moves_system: the tokenizer's own template puts the system text into the
        last user turn, where nothing before it could be kept from turn to turn; it is
        compared on a conversation whose first user turn holds the system text.
    """

    name: str
    mark: str
    system: Turn
    user: Turn
    assistant: Turn
    stop: str
    other_stops: tuple[str, ...] = ()
    opens_user_turn: bool = False
    trims: bool = False
    template: str = ""
    template_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    template_moves_system: bool = False


CHATML = ChatFormat(
    name="chatml",
    mark="<|im_start|>",
    system=Turn("<|im_start|>system\n", "<|im_end|>\n"),
    user=Turn("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=Turn("<|im_start|>assistant\n", "<|im_end|>\n"),
    stop="<|im_end|>",
    other_stops=("<|endoftext|>",),
    template=(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
)

# The template of these models writes a date; a fixed one keeps prompts the same every day.
_LLAMA3_DATE = "26 Jul 2024"
_LLAMA3_HEADER = "<|start_header_id|>{role}<|end_header_id|>\n\n"
_LLAMA3_DATES = f"Cutting Knowledge Date: December 2023\nToday Date: {_LLAMA3_DATE}\n\n"

LLAMA3 = ChatFormat(
    name="llama3",
    mark="<|start_header_id|>",
    system=Turn(
        "<|begin_of_text|>" + _LLAMA3_HEADER.format(role="system") + _LLAMA3_DATES, "<|eot_id|>"
    ),
    user=Turn(_LLAMA3_HEADER.format(role="user"), "<|eot_id|>"),
    assistant=Turn(_LLAMA3_HEADER.format(role="assistant"), "<|eot_id|>"),
    stop="<|eot_id|>",
    other_stops=("<|end_of_text|>", "<|eom_id|>"),
    trims=True,
    template=(
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
        "\n\n{% if m.role == 'system' %}" + _LLAMA3_DATES + "{% endif %}"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    template_options={"date_string": _LLAMA3_DATE},
)

_OPEN_SYSTEM = (
    "{% set ns = namespace(lead='') %}{% for m in messages %}{% if m.role == 'system' %}"
    "{% set ns.lead = m.content + '\n\n' %}{% else %}"
)

GEMMA = ChatFormat(
    name="gemma",
    mark="<start_of_turn>",
    system=Turn("<bos><start_of_turn>user\n", "\n\n"),
    user=Turn("<start_of_turn>user\n", "<end_of_turn>\n"),
    assistant=Turn("<start_of_turn>model\n", "<end_of_turn>\n"),
    stop="<end_of_turn>",
    other_stops=("<eos>",),
    opens_user_turn=True,
    trims=True,
    template=(
        "<bos>" + _OPEN_SYSTEM + "<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ ns.lead }}{{ m.content | trim }}"
        "<end_of_turn>\n{% set ns.lead = '' %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
)

MISTRAL = ChatFormat(
    name="mistral",
    mark="[INST]",
    system=Turn("<s>[INST] ", "\n\n"),
    user=Turn("[INST] ", "[/INST]"),
    assistant=Turn("", "</s>"),
    stop="</s>",
    opens_user_turn=True,
    template=(
        "<s>" + _OPEN_SYSTEM + "{% if m.role == 'user' %}[INST] {{ ns.lead }}{{ m.content }}"
        "[/INST]{% set ns.lead = '' %}{% else %} {{ m.content }}</s>{% endif %}{% endif %}"
        "{% endfor %}"
    ),
    template_moves_system=True,
)

CHAT_FORMATS = {each.name: each for each in (CHATML, LLAMA3, GEMMA, MISTRAL)}


def find_format(tokenizer: Tokenizer, name: str | None = None) -> ChatFormat:
    """The format of this name, or the one whose mark the tokenizer knows.

    Where the tokenizer's own template refuses a system turn, the format that comes back puts
    the system text at the start of the first user turn.

    Raises:
      ValueError: no such format, or the tokenizer lacks the format's special tokens.
    """
    vocabulary = tokenizer.get_vocab()
    if name is None:
        known = [each for each in CHAT_FORMATS.values() if each.mark in vocabulary]
        if not known:
            marks = ", ".join(f"{each.mark} ({each.name})" for each in CHAT_FORMATS.values())
            raise ValueError(
                f"The tokenizer knows none of the chat formats' tokens: {marks}; a model that was "
                "tuned for conversation is needed."
            )
        return _with_turns_of_template(known[0], tokenizer)
    if name not in CHAT_FORMATS:
        raise ValueError(
            f"No chat format is called {name!r}; known: {', '.join(sorted(CHAT_FORMATS))}."
        )
    missing = [t for t in (CHAT_FORMATS[name].mark, CHAT_FORMATS[name].stop) if t not in vocabulary]
    if missing:
        raise ValueError(
            f"The tokenizer does not know {' and '.join(missing)} of chat format {name!r}."
        )
    return _with_turns_of_template(CHAT_FORMATS[name], tokenizer)


def _with_turns_of_template(chat_format: ChatFormat, tokenizer: Tokenizer) -> ChatFormat:
    """The format, without a system turn where the tokenizer's template refuses one."""
    if chat_format.opens_user_turn or not getattr(tokenizer, "chat_template", None):
        return chat_format
    turns = _conversation()
    if _refusal(chat_format, tokenizer, turns) is None:
        return chat_format
    if _refusal(chat_format, tokenizer, _without_system(turns)) is not None:
        return chat_format  # it refuses anything, which `check_template` reports
    opening = chat_format.system.header.partition(chat_format.mark)[0]
    system = Turn(opening + chat_format.user.header, "\n\n")
    return dataclasses.replace(chat_format, system=system, opens_user_turn=True)


class ChatEncoder:
    """Turns contents into messages for one tokenizer and chat format.

    Attributes:
      stop_id: the token that ends the assistant's turn.
      stop_ids: all tokens that end a response, that one first.
      delimiters: all text that stands around contents.
      generation_prompt: ids of what stands before a response.
    """

    def __init__(self, tokenizer: Tokenizer, chat_format: ChatFormat, end_ids: Sequence[int] = ()):
        """An encoder of `tokenizer`; `end_ids` are what the model's files name as ends."""
        self.tokenizer = tokenizer
        self.format = chat_format
        vocabulary = tokenizer.get_vocab()
        self.stop_id: int = vocabulary[chat_format.stop]
        others = (vocabulary[token] for token in chat_format.other_stops if token in vocabulary)
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys((self.stop_id, *others, *end_ids)))
        self.delimiters = tuple(
            text
            for turn in (chat_format.system, chat_format.user, chat_format.assistant)
            for text in (turn.header, turn.footer)
        )
        self._plain = PlainTextEncoder(tokenizer.backend_tokenizer, self.delimiters)
        footer = tuple(self.encode(chat_format.assistant.footer))
        self._after_stop = footer[footer.index(self.stop_id) + 1 :]
        self.generation_prompt: tuple[int, ...] = tuple(self.encode(chat_format.assistant.header))

    def encode(self, text: str) -> list[int]:
        """Ids of text that may hold special tokens, as delimiters do."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_plain(self, text: str) -> list[int]:
        """Ids of contents: special tokens inside are plain text."""
        return self._plain.encode("", text, "")

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def message(self, role: str, text: str, kind: Kind) -> Message:
        """Tokenises `text` once; special tokens inside it are plain text."""
        turn: Turn = getattr(self.format, role)
        plain = text.strip() if self.format.trims else text
        ids = tuple(self._plain.encode(turn.header, plain, turn.footer))
        continued = closing = None
        if self.format.opens_user_turn and role == "system":
            closing = tuple(self.encode(self.format.user.footer))
        elif self.format.opens_user_turn and role == "user":
            continued = self._encode_behind(self.format.system.footer, plain, turn.footer)
        return Message(
            role=role, text=text, token_ids=ids, kind=kind, continued_ids=continued,
            closing_ids=closing,
        )  # fmt: skip

    def response(self, token_ids: Sequence[int]) -> Message:
        """Wraps sampled ids, keeping each of them.

        Args:
          token_ids: what was sampled after `generation_prompt`. Unless it ends with
            `stop_id`, since the length limit cut it or it ended with another one of
            `stop_ids`, what ends the turn is appended.
        """
        sampled = tuple(token_ids)
        body = sampled[:-1] if sampled and sampled[-1] in self.stop_ids else sampled
        kept = sampled[:-1] if sampled[-1:] == (self.stop_id,) else sampled
        ids = (*self.generation_prompt, *kept, self.stop_id, *self._after_stop)
        return Message(role="assistant", text=self.decode(body), token_ids=ids, kind=Kind.RESPONSE)

    def _encode_behind(self, lead: str, contents: str, after: str) -> tuple[int, ...]:
        """Ids of contents as they are behind `lead`: some tokenizers treat a start specially."""
        before, whole = self.encode(lead), self._plain.encode(lead, contents, after)
        if whole[: len(before)] != before:
            return tuple(self._plain.encode("", contents, after))
        return tuple(whole[len(before) :])


def check_vocabulary(chat: ChatEncoder, size: int) -> None:
    """Stops where the delimiters of the chat format have ids that a model lacks.

    Args:
      chat: of the model's tokenizer.
      size: how many tokens the model embeds.

    Raises:
      ValueError: they have; the sentence names them.
    """
    ids = {index for text in chat.delimiters for index in chat.encode(text)}
    beyond = sorted(index for index in ids if index >= size)
    if beyond:
        names = ", ".join(f"{chat.decode([index])} ({index})" for index in beyond)
        raise ValueError(
            f"Chat format {chat.format.name!r} needs {names}, but the model embeds only {size} "
            "tokens; its tokenizer belongs to another model."
        )


def check_template(chat: ChatEncoder) -> None:
    """Compares our ids of a short conversation with those of the tokenizer's own template.

    A tokenizer without a template has nothing to compare with, and passes.

    Raises:
      ValueError: they differ, and the sentence shows where they part; or the template
        refuses a conversation with and without a system turn.
    """
    chat_format = chat.format
    if not chat.tokenizer.chat_template:
        return
    turns = _conversation()
    system, first, reply, second = (turn["content"] for turn in turns)
    # What a template writes between an answer's header and its text, a model would sample.
    answer = chat.encode(" " + reply) if not chat_format.assistant.header else chat.encode(reply)
    context = Context(
        (
            chat.message("system", system, Kind.SYSTEM),
            chat.message("user", first, Kind.TASK_MESSAGE),
            chat.response([*answer, chat.stop_id]),
            chat.message("user", second, Kind.QUERY),
        )
    )
    ours = [*context.token_ids, *chat.generation_prompt]
    if chat_format.template_moves_system or _refusal(chat_format, chat.tokenizer, turns):
        turns = _without_system(turns, chat_format.system.footer)
    refusal = _refusal(chat_format, chat.tokenizer, turns)
    if refusal is not None:
        raise ValueError(
            f"The tokenizer's own chat template refuses a conversation of user, assistant and "
            f"user ({refusal}); take a model whose template writes one, or a template of another."
        )
    theirs = _rendered(chat_format, chat.tokenizer, turns)
    if ours == theirs:
        return
    pairs = zip(ours, theirs, strict=False)
    parting = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    shown = [chat.decode(ids[max(0, parting - 8) : parting + 8]) for ids in (ours, theirs)]
    raise ValueError(
        f"Chat format {chat_format.name!r} and the tokenizer's own template part at token "
        f"{parting}: ours reads {shown[0]!r} there, the template's {shown[1]!r}; choose another "
        f"format ({', '.join(sorted(CHAT_FORMATS))}) or a model that was tuned for this one."
    )


def _conversation() -> list[dict[str, str]]:
    """What templates are tried and compared on."""
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A model."},
        {"role": "user", "content": "Thank you: go on!"},
    ]


def _without_system(turns: list[dict[str, str]], joint: str = "\n\n") -> list[dict[str, str]]:
    """The same, its system text at the start of the first user turn."""
    system, first, *rest = turns
    return [first | {"content": system["content"] + joint + first["content"]}, *rest]


def _rendered(
    chat_format: ChatFormat, tokenizer: Tokenizer, turns: list[dict[str, str]]
) -> list[int]:
    return list(
        tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False,
            **chat_format.template_options,
        )
    )  # fmt: skip


def _refusal(
    chat_format: ChatFormat, tokenizer: Tokenizer, turns: list[dict[str, str]]
) -> str | None:
    """Why the tokenizer's template does not write a conversation; None where it does."""
    try:
        _rendered(chat_format, tokenizer, turns)
    except ImportError:  # the template language is not installed
        raise
    except Exception as error:  # templates raise what they like, and run into errors of all kinds
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None
