"""Exact match and F1 are HotpotQA's: against its definition, written in another way here."""

import collections
import itertools
import json
import pathlib
import random
import string

import pytest

from agemem_jax.rewards.text_matching import answer_f1, exact_match, normalise_answer

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "hotpotqa"
OWN = ("Orland", "the Tarn Mill", "yes", "no", "“The Beatles”", "from 1986 to 2013", "A. B. Cole")

# What HotpotQA's official script gives for an answer and the expected one: (exact match, F1).
OFFICIAL = [
    ("the—cat", "cat", 0.0, 0.0),
    ("the—cat", "—cat", 1.0, 1.0),
    ("“The Beatles”", "The Beatles", 0.0, 0.0),
    ("“The Beatles”", "“Beatles”", 0.0, 0.0),
    ("a–b", "b", 0.0, 0.0),
    ("a–b", "–b", 1.0, 1.0),
    ("vitamin A’s role", "vitamin role", 0.0, 0.8),
    ("Andante", "ante", 0.0, 0.0),
    ("a.b.", "ab", 1.0, 1.0),
    ("A.", "the", 1.0, 0.0),
    ("an", "a", 1.0, 0.0),
    ("U.S.A.", "USA", 1.0, 1.0),
    ("O'Neil", "oneil", 1.0, 1.0),
    ("O’Neil", "oneil", 0.0, 0.0),
    ("well-known", "well known", 0.0, 0.0),
    ("well-known", "wellknown", 1.0, 1.0),
    ("yes", "yes.", 1.0, 1.0),
    ("Yes!", "yes", 1.0, 1.0),
    ("yes", "no", 0.0, 0.0),
    ("yes it is", "yes", 0.0, 0.0),
    ("the yes", "Yes", 1.0, 1.0),
    ("noanswer", "no answer", 0.0, 0.0),
    ("No answer", "noanswer", 0.0, 0.0),
    ("no", "no one", 0.0, 0.0),
    ("", "", 1.0, 0.0),
    ("", "the", 1.0, 0.0),
    ("", "x", 0.0, 0.0),
    ("!!!", "...", 1.0, 0.0),
    ("one  two\tthree", "three two one", 0.0, 1.0),
    ("one one two", "one two two", 0.0, 0.6666666666666666),
    ("1,000", "1000", 1.0, 1.0),
    ("Zoë", "Zoe", 0.0, 0.0),
    ("the\xa0cat", "cat", 1.0, 1.0),
    ("snake_case the", "snakecase", 1.0, 1.0),
    ("theatre", "the atre", 0.0, 0.0),
    ("a\u0301", "\u0301", 1.0, 1.0),
    ("STRASSE", "straße", 0.0, 0.0),
]


@pytest.mark.parametrize("answer, expected, match, f1", OFFICIAL)
def test_hard_pairs_score_as_the_official_script_scores_them(answer, expected, match, f1):
    assert exact_match(answer, expected) == match
    assert answer_f1(answer, expected) == f1


# --- The oracle: the published definition, letter by letter -------------------------------


def oracle_words(text: str) -> list[str]:
    kept = [letter for letter in text.lower() if letter not in set(string.punctuation)]
    runs = ("".join(run) for _, run in itertools.groupby(kept, str.isalnum))
    return "".join(" " if run in {"a", "an", "the"} else run for run in runs).split()


def oracle(answer: str, expected: str) -> tuple[float, float]:
    ours, theirs = oracle_words(answer), oracle_words(expected)
    match = float(ours == theirs)
    for words in (ours, theirs):
        if words in (["yes"], ["no"], ["noanswer"]) and not match:
            return match, 0.0
    left = collections.Counter(theirs)
    shared = 0
    for word in ours:
        if left[word] > 0:
            left[word] -= 1
            shared += 1
    return match, 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def answers() -> list[str]:
    """Answers of HotpotQA where its sample is at hand, a few of our own where it is not."""
    if not DATA.is_dir():
        return list(OWN)
    files = ("hotpot_train_sample.json", "hotpot_dev_sample.json")
    return [row["answer"] for name in files for row in json.loads((DATA / name).read_text())]


MARKS = "—–“”’‘…·«»、。¿¡™°_-.,\"'!(&/ \t\n\xa0\u2009\u200b\u2028\u3000éßİﬁ٣²½\u0301中€"
WORDS = ("a", "an", "the", "A", "An", "The", "THE", "yes", "no", "noanswer", "No.", "", "and")


def changed(rng: random.Random, text: str) -> str:
    """A text with marks, articles and letters put in, in another order, case or length."""
    for _ in range(rng.randint(0, 4)):
        place = rng.randint(0, len(text))
        word = rng.choice(MARKS) + rng.choice(WORDS) + rng.choice(MARKS)
        words = text.split()
        text = rng.choice(
            (
                text[:place] + rng.choice(MARKS) + text[place:],
                text[:place] + word + text[place:],
                word[1:] + text,
                text + word[:-1],
                text.swapcase(),
                " ".join(rng.sample(words, len(words))),
                " ".join(words[: rng.randint(0, len(words))]),
                rng.choice(WORDS),
            )
        )
    return text


def test_thousands_of_changed_answers_score_as_the_published_definition_says():
    rng = random.Random(0)
    known = [*answers(), *OWN]
    partial = matches = 0
    for _ in range(5_000):
        expected = rng.choice(known)
        answer = changed(rng, expected if rng.random() < 0.8 else rng.choice(known))
        if rng.random() < 0.3:
            expected = changed(rng, expected)
        match, f1 = oracle(answer, expected)
        assert normalise_answer(answer) == " ".join(oracle_words(answer)), answer
        assert exact_match(answer, expected) == match, (answer, expected)
        assert answer_f1(answer, expected) == pytest.approx(f1, abs=1e-12), (answer, expected)
        partial += 0 < f1 < 1
        matches += match
    assert partial > 500 and matches > 500  # the pairs are neither all right nor all wrong
