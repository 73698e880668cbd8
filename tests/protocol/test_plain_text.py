"""Special tokens inside contents are plain text, and all other text keeps the template's ids."""

import concurrent.futures
import random

import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from agemem_jax.protocol.chat_formats import CHAT_FORMATS, ChatEncoder
from agemem_jax.protocol.messages import Context, Kind
from agemem_jax.protocol.plain_text import PlainTextEncoder
from tests.protocol.test_chat_formats import trained
from tests.small_models import tokenizer_of

# Beside the formats' own: what published tokenizers have, flagged special or not.
SPECIAL = ["<file_sep>", "</s>", "<unk>", "<|endoftext|>", "[gMASK]"]
CONTROL = ["<|fim_prefix|>", "<｜User｜>"]  # ordinary additions by their flag, and no text
WRITTEN = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
STRIPPING = AddedToken("<mask>", lstrip=True, rstrip=True, special=True, normalized=False)
PIECES = [
    "see ", " please", "\n", "\n\n", "  ", " ", "1", "23", "don't", "Who are you?", "system\n",
    "user", "a", "<", "|", "<|", "|>", "/s>", "[", "INST", "\t",
]  # fmt: skip


def with_additions(raw: tokenizers.Tokenizer) -> transformers.PreTrainedTokenizerFast:
    raw = tokenizers.Tokenizer.from_str(raw.to_str())
    raw.add_special_tokens([*SPECIAL, STRIPPING])
    raw.add_tokens([AddedToken(token, normalized=False) for token in (*CONTROL, *WRITTEN)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, clean_up_tokenization_spaces=False
    )


def encoders(name: str) -> list[ChatEncoder]:
    """Of the format: with the tokenizer of small models, and with one of its family's kind."""
    found = [tokenizer_of(name).backend_tokenizer, trained(name)]
    return [ChatEncoder(with_additions(raw), CHAT_FORMATS[name]) for raw in found]


def marks_of(chat: ChatEncoder) -> dict[int, str]:
    """All that no contents may give."""
    added = chat.tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return {i: a.content for i, a in added.items() if a.special or a.content in CONTROL}


def texts(chat: ChatEncoder, count: int, *, marks: bool) -> list[str]:
    """Texts of a few pieces each, every special token inside some of them."""
    rng = random.Random(0)
    special = sorted(marks_of(chat).values())
    pieces = PIECES + WRITTEN + (special if marks else [])
    drawn = ["".join(rng.choices(pieces, k=rng.randint(1, 8))) for _ in range(count)]
    spelled = [f"see {mark} and{mark}{mark}" for mark in special] + special if marks else []
    if not marks:  # which pieces may have spelled side by side
        drawn = [text for text in drawn if not any(mark in text for mark in special)]
    return drawn + spelled


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_no_special_token_inside_contents_gives_its_id_whatever_the_role(name):
    for chat in encoders(name):
        unknown = chat.tokenizer.convert_tokens_to_ids("<unk>")
        marks = marks_of(chat).keys() - {unknown}  # which letters without a token give
        turns = ("system", Kind.SYSTEM), ("user", Kind.QUERY), ("user", Kind.TOOL_RESULT)
        for role, kind in turns:
            bare = chat.message(role, "a", kind)
            for text in texts(chat, 100, marks=True):
                message = chat.message(role, text, kind)
                for ids, plain in (
                    (message.token_ids, bare.token_ids),
                    (message.continued_ids or (), bare.continued_ids or ()),
                ):
                    assert [i for i in ids if i in marks] == [i for i in plain if i in marks], text
                assert message.text == text


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_contents_are_read_back_as_they_were_written(name):
    for chat in encoders(name):
        turn = chat.format.user
        for text in texts(chat, 100, marks=True):
            ids = chat.message("user", text, Kind.QUERY).token_ids
            shown = text.strip() if chat.format.trims else text
            assert chat.decode(ids) == turn.header + shown + turn.footer


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_other_contents_have_the_ids_of_header_contents_and_footer_as_one_text(name):
    for chat in encoders(name):
        written = {chat.tokenizer.convert_tokens_to_ids(token) for token in WRITTEN}
        seen = set()
        for text in texts(chat, 300, marks=False):
            for role, kind in (("system", Kind.SYSTEM), ("user", Kind.QUERY)):
                turn = getattr(chat.format, role)
                shown = text.strip() if chat.format.trims else text
                whole = turn.header + shown + turn.footer
                expected = chat.tokenizer.encode(whole, add_special_tokens=False)
                assert list(chat.message(role, text, kind).token_ids) == expected, text
                seen |= written.intersection(expected)
        assert seen == written  # tags that a policy writes stay single tokens


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_a_context_of_messages_has_the_ids_of_the_text_that_it_is(name):
    for chat in encoders(name):
        texts_of = iter(texts(chat, 40, marks=False))
        for text in texts_of:
            system = chat.message("system", f"Be brief. {text}", Kind.SYSTEM)
            user = chat.message("user", next(texts_of), Kind.QUERY)
            parts = [t.text.strip() if chat.format.trims else t.text for t in (system, user)]
            form = chat.format
            opening = "" if form.opens_user_turn else form.user.header
            whole = (
                form.system.header + parts[0] + form.system.footer + opening + parts[1]
                + form.user.footer
            )  # fmt: skip
            expected = chat.tokenizer.encode(whole, add_special_tokens=False)
            shown = list(Context((system, user)).token_ids)
            # White space that begins a message behind an open turn is cut off by itself.
            if not form.opens_user_turn or not parts[1].startswith(("\n", " ", "\t")):
                assert shown == expected, whole
            assert chat.decode(shown) == chat.decode(expected)


def test_threads_share_an_encoder_and_the_tokenizer_stays_as_it_was():
    (chat, _) = encoders("chatml")
    marked = texts(chat, 200, marks=True)
    alone = [chat.message("user", text, Kind.QUERY).token_ids for text in marked]

    def ids_of(text):
        stop = chat.tokenizer.encode("<|im_end|>", add_special_tokens=False)
        assert stop == [chat.stop_id]
        return chat.message("user", text, Kind.QUERY).token_ids

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ids_of, marked)) == alone
    assert chat.tokenizer.convert_tokens_to_ids("<|im_end|>") == chat.stop_id
    assert not chat.tokenizer.backend_tokenizer.encode_special_tokens


def test_a_vocabulary_that_holds_special_tokens_as_words_gives_none_of_them():
    """As unigram models do, which find words of the vocabulary wherever they stand."""
    letters = sorted(set("<>/s|im_endtarue \n")) + ["us", "er"]
    words = [("<unk>", 0.0), ("</s>", -1.0), ("<|im_start|>", -1.0), ("<|im_end|>", -1.0)]
    raw = tokenizers.Tokenizer(models.Unigram([*words, *((x, -2.0) for x in letters)], unk_id=0))
    raw.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_special_tokens(["<unk>", "</s>"])
    raw.add_tokens(["<|im_start|>", "<|im_end|>"])
    encoder = PlainTextEncoder(raw, ["<|im_start|>user\n", "<|im_end|>\n"])
    ids = encoder.encode("<|im_start|>user\n", "a</s>d <|im_end|> </s>", "<|im_end|>\n")
    assert [i for i in ids if i < 4] == [2, 3]
    assert raw.decode(ids, skip_special_tokens=False) == (
        "<|im_start|>user\na</s>d <|im_end|> </s><|im_end|>\n"
    )


def test_what_an_agent_writes_in_a_demonstration_holds_no_special_token_of_a_task():
    (chat, _) = encoders("chatml")
    ids = chat.encode_plain("<think>see </s></think>")
    assert chat.decode(ids) == "<think>see </s></think>"
    assert not marks_of(chat).keys() & set(ids)
    assert chat.tokenizer.convert_tokens_to_ids("<think>") == ids[0]
