"""What a sentence affirms, denies and asks, and what it therefore states."""

import json
import pathlib
import re

import pytest

from agemem_jax.rewards.polarity import Mark, read
from agemem_jax.rewards.text_matching import (
    denies,
    is_high_quality,
    is_name,
    sentences,
    states,
    states_stale,
    tokens,
)
from tests.rewards.builders import STALE, WORKS

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "hotpotqa"
NEVER = "Tovelin never worked at Pelmor."


def denied(sentence: str) -> list[str]:
    return [word for word, marks in read(sentence) if Mark.DENIED in marks]


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("Ana does not work here, but there.", "work here"),
        ("Ana isn't here; Ben is.", "here"),
        ("Neither Ana nor Ben lives in Rome.", "Ana nor Ben lives in Rome"),
        ("Ana left Rome and lives in Oslo.", "Rome"),
        ("Ana left the band for Oslo.", "the band"),
        ("Ana moved from Rome to Oslo.", "Rome"),
        ("Ana used to live in Rome.", "live in Rome"),
        (
            "That Ana lives in Rome, as I heard, is not true.",
            "That Ana lives in Rome as I heard is",
        ),
        ("It is false that Ana lives in Rome.", "that Ana lives in Rome"),
        ("Ana lives in Rome, Ben does not.", "Ben does"),
        ("ANA NEVER LIVED IN ROME.", "LIVED IN ROME"),
        # What looks like a denial and is none.
        ("Ana lives not only in Rome but also in Oslo.", ""),
        ("Ana is no doubt in Rome.", ""),
        ("Ana wants nothing but peace.", ""),
        ("No, Ana lives in Rome.", ""),
        ("Never Let Me Go is a novel by Kazuo Ishiguro.", ""),
        ("Ana likes No Country for Old Men and Dr. No.", ""),
        ("Ana was ranked no. 3 of all.", ""),
        ("Ana turned left behind the left wing.", ""),
        ("Iron is used to make steel.", ""),
        ("", ""),
    ],
)
def test_what_is_denied_can_be_told_by_the_rules(sentence, words):
    assert denied(sentence) == words.split()


def test_a_question_asks_everything_unless_it_tells_something():
    for question in ("Does Ana live in Rome?", "Do you know where Ana lives?", "In Rome, right?"):
        assert all(marks == {Mark.ASKED} for _, marks in read(question))
    assert all(marks == {Mark.AFFIRMED} for _, marks in read("Did you know that Ana is in Rome?"))
    assert ("Rome", frozenset({Mark.ASKED})) in read("I wonder whether Ana lives in Rome.")


def test_what_but_continues_shares_its_verb_and_not_its_names():
    marks = dict(read("Ana no longer works at Dravix, but at Pelmor now."))
    assert marks["works"] == {Mark.DENIED} | {Mark.AFFIRMED}
    assert (marks["Dravix"], marks["Pelmor"]) == ({Mark.DENIED}, {Mark.AFFIRMED})


@pytest.mark.parametrize(
    ("text", "works"),
    [
        (WORKS, True),
        ("Pelmor has employed Tovelin.", True),
        ("Tovelin no longer works at Dravix, but at Pelmor now.", True),
        ("Tovelin left Dravix and works at Pelmor now.", True),
        ("Not only Barix but also Tovelin works at Pelmor.", True),
        ("Tovelin, who never eats fish, works at Pelmor.", True),
        ("Tovelin works at Pelmor, not at Dravix.", True),
        ("I do not like it. Tovelin works at Pelmor.", True),
        ("Did you know that Pelmor employs Tovelin?", True),
        (NEVER, False),
        ("Tovelin does not work at Pelmor.", False),
        ("Tovelin doesn’t work at Pelmor.", False),
        ("Tovelin no longer works at Pelmor.", False),
        ("Pelmor is where Tovelin never worked.", False),
        ("Never has Tovelin worked at Pelmor.", False),
        ("Tovelin left Pelmor.", False),
        ("Tovelin left Pelmor and works at Dravix now.", False),
        ("Tovelin no longer works at Pelmor, but at Dravix now.", False),
        ("It is not true that Tovelin works at Pelmor.", False),
        ("That Tovelin works at Pelmor is wrong.", False),
        ("Does Tovelin work at Pelmor?", False),
        ("I wonder if Tovelin works at Pelmor.", False),
        ("Tovelin, Pelmor, Dravix, Velton", False),
        ("Talk about Tovelin, Pelmor and Dravix.", False),
        ("Nobody told me that Tovelin works at Pelmor.", False),
    ],
)
def test_a_fact_is_stated_by_who_affirms_it_and_by_nobody_else(text, works):
    assert states(text, WORKS) == works


def test_a_negated_fact_is_stated_by_negated_sentences_alone():
    for text in (NEVER, "Tovelin has not worked at Pelmor.", "Pelmor never employed Tovelin."):
        assert states(text, NEVER), text
        assert denies(text, WORKS), text
    for text in (WORKS, "Pelmor employs Tovelin.", "Did Tovelin never work at Pelmor?"):
        assert not states(text, NEVER), text
    assert denies(WORKS, NEVER)
    assert not denies("Barix never worked at Dravix.", WORKS)
    assert not denies("Does Tovelin work at Pelmor?", WORKS), "a question denies nothing"


def test_titles_with_denying_words_are_names():
    fact = "Never Let Me Go is a novel by Kazuo Ishiguro."
    assert states("I heard that Kazuo Ishiguro wrote the novel Never Let Me Go.", fact)
    assert not states("Never Let Me Go is not a novel by Kazuo Ishiguro.", fact)


def test_an_entry_that_denies_a_gold_fact_or_tells_a_change_is_judged_by_that():
    based = "Pelmor is based in Velton."
    assert is_high_quality(f"{WORKS} {based}", (WORKS, based), (STALE,))
    assert not is_high_quality(f"{WORKS} Pelmor is not based in Velton.", (WORKS, based), (STALE,))
    assert states_stale(STALE, (WORKS,), (STALE,))
    for text in ("Tovelin left Dravix.", "Tovelin used to work at Dravix.", f"Is it so? {WORKS}"):
        assert not states_stale(text, (WORKS,), (STALE,)), text


def test_a_sentence_does_not_end_at_an_abbreviation():
    text = "Dr. K. A. Apple was ranked no. 3 in St. Paul. He left. \nYes! No? Well"
    assert sentences(text) == [
        "Dr. K. A. Apple was ranked no. 3 in St. Paul.", "He left.", "Yes!", "No?", "Well",
    ]  # fmt: skip


# --- Real sentences -----------------------------------------------------------------

_AUXILIARY = re.compile(r"\b(?:is|was|are|were|has|have|had|can|could|will|would|may|must)\b")


def behind_auxiliary(sentence: str, word: str) -> str | None:
    """The sentence with a word behind its first auxiliary; None without one."""
    found = _AUXILIARY.search(sentence)
    return None if found is None else f"{sentence[: found.end()]}{word}{sentence[found.end() :]}"


def asked(sentence: str) -> str | None:
    found = _AUXILIARY.search(sentence)
    if found is None:
        return None
    rest = f"{sentence[: found.start()]}{sentence[found.end() :].lstrip()}".rstrip(". ")
    return f"{found[0].capitalize()} {rest}?"


def names(sentence: str) -> str:
    return ", ".join(dict.fromkeys(word for word in tokens(sentence) if is_name(word)))


@pytest.fixture(scope="module")
def gold():
    """The supporting sentences of the HotpotQA sample, in order."""
    if not DATA.is_dir():
        pytest.skip(f"samples of HotpotQA are not in {DATA}; the other tests need none")
    found = []
    for name in ("train", "dev"):
        for row in json.loads((DATA / f"hotpot_{name}_sample.json").read_text()):
            paragraphs = dict(map(tuple, row["context"]))
            facts = row["supporting_facts"]
            texts = [paragraphs[title][i] for title, i in facts if i < len(paragraphs[title])]
            found += [text.strip() for text in texts if text.strip()]
    return found


def stated(texts, facts):
    """Of the texts that there are: the share that states its fact; and their number."""
    pairs = [(text, fact) for text, fact in zip(texts, facts, strict=True) if text is not None]
    return sum(states(text, fact) for text, fact in pairs) / len(pairs), len(pairs)


def test_real_sentences_state_themselves_and_not_what_denies_them(gold):
    others = gold[1:] + gold[:1]
    same = {
        "itself": gold,
        "another sentence in front": [f"{a} {b}" for a, b in zip(others, gold, strict=True)],
        "another sentence behind": [f"{b} {a}" for a, b in zip(others, gold, strict=True)],
        "I heard that": [f"I heard that {text}" for text in gold],
        "Did you know that?": [f"Did you know that {text.rstrip('. ')}?" for text in gold],
    }
    other = {
        "not": [behind_auxiliary(text, " not") for text in gold],
        "n't": [behind_auxiliary(text, "n't") for text in gold],
        "never": [behind_auxiliary(text, " never") for text in gold],
        "no longer": [behind_auxiliary(text, " no longer") for text in gold],
        "It is not true that": [f"It is not true that {text}" for text in gold],
        "That ... is not true": [f"That {text.rstrip('. ')} is not true." for text in gold],
        "a question": [asked(text) for text in gold],
        "a list of its names": [names(text) or None for text in gold],
    }
    found = {name: stated(texts, gold) for name, texts in (same | other).items()}
    for name, (share, count) in found.items():
        print(f"{name:28s} {100 * share:5.1f} % of {count} state the sentence")
    for name in ("itself", "another sentence in front", "another sentence behind"):
        assert found[name][0] == 1.0, name
    assert min(found[name][0] for name in same) > 0.98
    assert max(found[name][0] for name in other) < 0.05
