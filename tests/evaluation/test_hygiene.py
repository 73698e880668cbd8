"""The state of memories, against stores whose shares are known."""

import dataclasses

import pytest

from agemem_jax.evaluation.hygiene import (
    History,
    histories_of,
    hygiene_rows,
    left_behind,
    read_entry,
)
from agemem_jax.rewards import text_matching
from tests.rewards.builders import BASED, NOISE, STALE, TASK, WORKS, add, tool, trajectory

HISTORY = History((WORKS, BASED), (STALE,))
DISTRACTOR = "By the way, Sorrik works at Velmor."
TOLD = dataclasses.replace(
    TASK, messages=("Did you know that Tovelin works at Pelmor?", NOISE), distractors=(DISTRACTOR,)
)


def row(*entries, task=TOLD, events=()):
    played = trajectory(*events, task=task)
    played.memory.update({f"mem_{n}": entry for n, entry in enumerate(entries)})
    (found,) = hygiene_rows([played])
    return {name.removeprefix("memory_"): value for name, value in found.items()}


def test_shares_of_a_store_that_has_one_of_each():
    found = row(
        WORKS,
        BASED,
        "I heard that Tovelin has a job at Pelmor.",  # says what the first says
        STALE,  # contradicts the first and the third
        NOISE,
        DISTRACTOR,
        NOISE.upper(),  # junk once more
        "Pelmor is based in Morton.",  # never said, contradicts the second
    )
    assert found == {
        "entries": 8.0, "junk": 3 / 8, "distractors": 1 / 8, "duplicates": 2 / 8,
        "stale": 2 / 8, "contradictions": 5 / 8, "left": None,
    }  # fmt: skip


def test_a_clean_store_and_an_empty_one():
    clean = row(WORKS, BASED)
    assert clean == {
        "entries": 2.0, "junk": 0.0, "distractors": 0.0, "duplicates": 0.0, "stale": 0.0,
        "contradictions": 0.0, "left": None,
    }  # fmt: skip
    empty = row()
    assert empty.pop("entries") == 0.0 and set(empty.values()) == {None}
    assert row(WORKS, task=dataclasses.replace(TASK, supporting_facts=())) == {}


def test_an_entry_that_another_one_contains_is_its_duplicate():
    assert row(f"{WORKS} {BASED}", WORKS)["duplicates"] == 1 / 2
    assert row(WORKS, f"{WORKS} {BASED}")["duplicates"] == 1 / 2
    assert row(WORKS, WORKS, WORKS)["duplicates"] == 2 / 3


def test_a_correction_does_not_contradict_itself_but_raw_turns_with_both_do():
    corrected = "Update: Tovelin no longer works at Dravix, but at Pelmor now."
    assert row(corrected)["contradictions"] == row(corrected)["stale"] == 0.0
    raw = f"By the way, Tovelin works at Dravix.\n{corrected}"
    assert row(raw)["contradictions"] == row(raw)["stale"] == 1.0
    assert row(STALE, corrected)["contradictions"] == 1.0, "stale beside its correction"
    assert row(STALE, BASED)["contradictions"] == 0.0, "stale without it"
    assert row(STALE, BASED)["stale"] == 1 / 2
    denied = "Tovelin does not work at Pelmor."
    assert (row(denied)["stale"], row(denied, WORKS)["contradictions"]) == (1.0, 1.0)


def test_what_takes_the_place_of_a_value_is_read_from_the_same_words_alone():
    for text, rivals in (
        ("Tovelin works at Dravix.", {"dravix"}),
        ("Tovelin works at Pelmor.", set()),
        ("Tovelin does not work at Dravix.", set()),
        ("Sorrik works at Dravix.", set()),
        ("Tovelin works.", set()),
    ):
        assert text_matching.rival_values(text, WORKS) == rivals, text
    assert text_matching.rival_values("Ana was born in 1956.", "Ana was born in 1985.") == {"1956"}
    assert text_matching.rival_values("Rain falls today.", "It rains.") == frozenset()


def test_what_a_deletion_leaves_behind_is_what_other_entries_still_say():
    def delete(memory_id, previous):
        return tool("Delete_memory", memory_id=memory_id, previous=previous)

    both = f"{WORKS} {BASED}"
    events = (add("a", both), add("b", WORKS), delete("a", both))
    assert left_behind(events, HISTORY) == 1 / 2
    assert row(WORKS, events=events)["left"] == 1 / 2
    assert left_behind((*events, delete("b", WORKS)), HISTORY) == 1 / 3
    stale = (add("a", STALE), add("b", f"Listen: {STALE}"), delete("a", STALE))
    assert left_behind(stale, HISTORY) == 1.0, "what was to be forgotten is still there"
    assert left_behind((add("a", NOISE), delete("a", NOISE)), HISTORY) is None
    failed = dataclasses.replace(delete("a", both), ok=False, effect=None)
    assert left_behind((add("a", both), failed), HISTORY) is None


def test_facts_are_those_of_all_tasks_that_tell_the_same_history():
    other = dataclasses.replace(TOLD, task_id="u", supporting_facts=("Ana lives in Oslo.",))
    elsewhere = dataclasses.replace(TOLD, task_id="v", messages=("Hello.",))
    histories = histories_of([TOLD, other, elsewhere])
    assert histories[TOLD.messages].gold == (WORKS, BASED, "Ana lives in Oslo.")
    played = [trajectory(task=each) for each in (TOLD, other, elsewhere)]
    for each in played:
        each.memory["a"] = "Ana lives in Oslo."
    assert [found["memory_junk"] for found in hygiene_rows(played)] == [0.0, 0.0, 1.0]


def test_a_stale_fact_is_corrected_by_the_fact_that_shares_its_words():
    assert HISTORY.corrections == {STALE: WORKS}
    assert History((BASED,), ("Ana has a cat.",)).corrections == {}
    assert read_entry(STALE, History((BASED,), (STALE,))).is_untrue is False
    found = row(STALE, task=dataclasses.replace(TOLD, supporting_facts=(BASED,)))
    assert (found["stale"], found["junk"]) == (1.0, 0.0), "stale, whatever corrects it"


@pytest.mark.parametrize("entry", ["", "?", "Pelmor, Tovelin, Velton"])
def test_entries_without_a_statement_are_junk(entry):
    assert row(entry)["junk"] == 1.0
