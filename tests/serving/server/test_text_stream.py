import random

import pytest

from agemem_jax.serving.server.text_stream import TextStream, begun


@pytest.mark.parametrize("text", ["Grüße 🎈 aus 東京", "plain words", "\ufffd kept"])
def test_pieces_are_the_whole_text_and_no_half_characters(chat, text):
    stream = TextStream(chat.decode, chat.stop_ids)
    ids = chat.encode_plain(text)
    pieces = [stream.push([token]) for token in ids] + [stream.push([chat.stop_id], done=True)]
    assert "".join(pieces) == stream.text == text
    assert stream.stopped
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_text_that_ends_the_response_is_never_shown_not_even_its_beginning(chat):
    ids = chat.encode_plain("one two END three")
    for cut in range(len(ids)):
        stream = TextStream(chat.decode, chat.stop_ids, ["END", "three!"])
        shown = stream.push(ids[:cut]) + stream.push(ids[cut:], done=True)
        assert shown == "one two " and stream.stopped


def test_what_only_looked_like_an_ending_is_shown_at_last(chat):
    stream = TextStream(chat.decode, chat.stop_ids, ["three!"])
    assert stream.push(chat.encode_plain("two thr")) == "two "
    assert stream.push([], done=True) == "thr" and not stream.stopped


def test_the_longest_beginning_of_a_mark_is_found():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices("ab", k=rng.randint(0, 8)))
        marks = ["".join(rng.choices("ab", k=rng.randint(1, 5))) for _ in range(2)]
        sizes = [n for m in marks for n in range(len(m)) if text.endswith(m[:n]) and n <= len(text)]
        assert begun(text, marks) == max(sizes)
