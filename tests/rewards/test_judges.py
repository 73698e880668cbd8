"""The offline judge and the text comparisons it rests on."""

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agemem_jax.rewards import context_reward, text_matching
from agemem_jax.rewards.judges import (
    AnswerItem,
    EntriesItem,
    OfflineJudge,
    StorageItem,
    memory_quality,
)
from agemem_jax.tasks.multihop import MultihopConfig, MultihopSource, sentence
from tests.rewards.builders import BASED, NOISE, STALE, TASK, WORKS, answer

GOLD = TASK.supporting_facts
SENTENCE = "Scott Derrickson (born July 16, 1966) is an American director and screenwriter."


def score_answer(given_answer: str, expected: str) -> float:
    return OfflineJudge().score_answers([AnswerItem("q", expected, given_answer)])[0]


def hotpot_scores(prediction: str, gold: str) -> tuple[float, float]:
    """Exact match and F1 as HotpotQA's evaluation defines them."""

    def normal(text):
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    p, g = normal(prediction), normal(gold)
    same = Counter(p.split()) & Counter(g.split())
    overlap = sum(same.values())
    if (
        p != g and (p in ("yes", "no", "noanswer") or g in ("yes", "no", "noanswer"))
    ) or not overlap:
        return float(p == g), 0.0
    precision, recall = overlap / len(p.split()), overlap / len(g.split())
    return float(p == g), 2 * precision * recall / (precision + recall)


words = st.lists(st.sampled_from("the a Yes no Rome, Oslo! an it's U.S. 1,000 noanswer".split()))


@given(words.map(" ".join), words.map(" ".join))
def test_answers_get_the_better_of_exact_match_and_f1(prediction, gold):
    match, f1 = hotpot_scores(prediction, gold)
    assert score_answer(prediction, gold) == pytest.approx(max(match, f1))


@pytest.mark.parametrize(
    ("given_answer", "expected", "value"),
    [
        ("the Eiffel tower.", "Eiffel Tower", 1.0),
        ("Velton", "Pelmor", 0.0),
        ("yes", "no", 0.0),
        ("yes, it is", "yes", 0.0),
        ("Chief of Protocol", "Chief of Staff", 2 / 3),
    ],
)
def test_answers_are_scored_as_hotpotqa_does(given_answer, expected, value):
    assert score_answer(given_answer, expected) == pytest.approx(value)


@pytest.mark.parametrize(
    ("entry", "good"),
    [
        (WORKS, True),
        ("tovelin Works at PELMOR", True),
        ("I heard that Tovelin has a job at Pelmor.", True),
        ("Did you know that Pelmor employs Tovelin?", True),
        ("Update: Tovelin no longer works at Dravix, but at Pelmor now.", True),
        (f"{WORKS} {BASED}", True),
        (STALE, False),
        (f"{STALE} {WORKS}", False),
        (f"{STALE} {BASED}", False),
        ("Tovelin works there.", False),
        ("Toveldor works at Pelmor.", False),
        (NOISE, False),
        ("", False),
    ],
)
def test_an_entry_is_good_when_it_says_a_current_fact_and_no_stale_one(entry, good):
    item = StorageItem(TASK.query, TASK.answer, entry, GOLD, TASK.stale_facts)
    assert OfflineJudge().score_storage([item]) == [float(good)]


def test_two_facts_side_by_side_do_not_say_a_third_one():
    assert not text_matching.states("Tovelin works at Dravix. Pelmor is in Velton.", WORKS)


@pytest.mark.parametrize(
    ("text", "says_it"),
    [
        (SENTENCE, True),
        ("Scott Derrickson is an American director and screenwriter, born July 16, 1966.", True),
        ("Scott Derrickson was born July 16, 1966. He directed; an American screenwriter.", True),
        ("Scott Derrickson is an American director.", False),
        ("Ed Wood (born July 16, 1966) is an American director and screenwriter.", False),
        ("He was born July 16, 1966 and is an American director and screenwriter.", False),
    ],
)
def test_a_longer_fact_needs_four_fifths_of_its_words_and_of_its_names(text, says_it):
    assert text_matching.states(text, SENTENCE) == says_it


def test_a_repeated_name_does_not_carry_a_fact_alone():
    fact = "The Singapore Sling is a cocktail from Singapore."
    assert not text_matching.states("Singapore Sling is an Icelandic band.", fact)


def test_every_message_of_the_embedded_tasks_is_judged_by_what_it_means():
    source = MultihopSource("validation", 60, config=MultihopConfig(noise_probability=0.5))
    for index in range(60):
        episode = source.episode(index)
        task = episode.task
        for message in episode.messages + episode.distractors:
            current = message.fact is not None and sentence(message.fact) in task.supporting_facts
            assert (
                text_matching.is_high_quality(message.text, task.supporting_facts, task.stale_facts)
                == current
            ), message.text


def test_relevance_is_the_harmonic_mean_of_precision_and_recall():
    def score(*entries):
        item = EntriesItem(TASK.query, TASK.answer, entries, GOLD, TASK.stale_facts)
        return OfflineJudge().score_relevance([item])[0]

    assert score(WORKS, BASED) == 1.0
    assert score(WORKS, NOISE) == pytest.approx(0.5)  # precision 1/2, recall 1/2
    assert score(WORKS, BASED, NOISE, STALE) == pytest.approx(2 / 3)  # precision 1/2, recall 1
    assert score() == 0.0


@pytest.mark.parametrize(
    ("memory", "quality"),
    [
        ({}, 0.0),
        ({"a": WORKS}, 0.5),
        ({"a": WORKS, "b": BASED}, 1.0),
        ({"a": WORKS, "b": WORKS}, 0.5),
        ({"a": WORKS, "b": BASED, "c": NOISE}, 1.0),
        ({"a": WORKS, "b": BASED, "c": STALE}, 2 / 3),
        ({"a": STALE, "b": BASED}, 1 / 3),
        ({"a": f"{WORKS} {BASED}"}, 1.0),
    ],
)
def test_memory_quality_is_the_share_of_facts_held_and_falls_with_stale_ones(memory, quality):
    assert memory_quality(memory, GOLD, TASK.stale_facts) == pytest.approx(quality)
    item = EntriesItem(TASK.query, TASK.answer, tuple(memory.values()), GOLD, TASK.stale_facts)
    assert OfflineJudge().score_memories([item]) == [memory_quality(memory, GOLD, (STALE,))]


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("In which city is the employer of Tovelin based?", {"tovelin"}),
        ("Who was born first, Ana or Ben?", {"ana", "ben"}),
        (
            "Were Scott Derrickson and Ed Wood American?",
            set("scott derrickson ed wood american".split()),
        ),
        ("Shirley Temple's film of 1945?", {"shirley", "temple", "1945"}),
        ('Who wrote "the big sleep" in May 1,939?', {"big", "sleep", "1,939"}),
        ("The Oberoi family is part of a hotel company.", {"oberoi"}),
        ("what is it?", set()),
    ],
)
def test_key_tokens_are_names_numbers_and_quoted_words(query, keys):
    assert text_matching.key_tokens(query) == keys


@pytest.mark.parametrize(
    ("query", "context", "value"),
    [
        ("Who is older, Ana or Ben?", "Summary: BEN, then ana.", 1.0),
        ("Who is older, Ana or Ben?", "Ana is old.", 0.0),
        ("Who is older, Ana or Ben?", "Anabel and Ben.", 0.0),
        ("Where was Ana in 1990?", "Ana's year was 1990.", 1.0),
        ("who is older?", "", 1.0),
    ],
)
def test_preservation_needs_every_key_token_in_the_context(query, context, value):
    assert context_reward.preservation(answer(context=context), query) == value


def test_nothing_is_preserved_without_an_answer():
    assert context_reward.preservation(None, "who is older?") == 0.0


@given(st.text(max_size=60), st.text(max_size=60))
def test_text_comparisons_take_any_text(left, right):
    assert text_matching.states(left, right) in (True, False)
    assert 0.0 <= text_matching.answer_f1(left, right) <= 1.0
    text_matching.key_tokens(left)
