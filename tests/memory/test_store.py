"""MemoryStore against a dictionary model, and its promises about ids, errors and shapes."""

import copy
import dataclasses
import json
import logging

import jax
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from agemem_jax.memory.operations import (
    Add,
    Clear,
    Delete,
    Retrieve,
    Update,
    derive_id,
    format_memory_id,
    parse_memory_id,
)
from agemem_jax.memory.store import MemoryStore

ROLLOUTS, ENTRIES = 3, 4
_TEXTS = ["", "a", "b", "ab", "abc", "bca", "ccc"]


class CountingEmbedder:
    """Letter counts over 8: sums of their products are exact in float32."""

    dim = 3

    def __init__(self):
        self.calls = []

    def embed(self, texts):
        self.calls.append(list(texts))
        return np.array([[t.count(c) / 8 for c in "abc"] for t in texts], np.float32)


def _score(text, query):
    return sum(text.count(c) / 8 * (query.count(c) / 8) for c in "abc")


def _store(**options):
    return MemoryStore.create(CountingEmbedder(), ROLLOUTS, ENTRIES, **options)


def _bits(store):
    return {name: array.tobytes() for name, array in store.get_state()["bank"].items()}


_metadata = st.none() | st.dictionaries(st.sampled_from(["topic", "source"]), st.integers(0, 1))
_picks = st.integers(0, 5)
_requests = st.one_of(
    st.builds(Add, st.sampled_from(_TEXTS), _metadata),
    st.builds(Add, st.sampled_from(_TEXTS), _metadata),
    st.tuples(st.just(Update), _picks, st.sampled_from(_TEXTS), _metadata),
    st.tuples(st.just(Delete), _picks),
    st.builds(Retrieve, st.sampled_from(_TEXTS), st.integers(1, ENTRIES + 1), _metadata),
    st.builds(Clear, st.integers(0, 3)),
)


class StoreMachine(RuleBasedStateMachine):
    """Random ticks on several rollouts, each row beside a dictionary of entries."""

    def __init__(self):
        super().__init__()
        self.store = _store()
        self.time = 0
        self.rows = [{} for _ in range(ROLLOUTS)]  # id -> (place, content, metadata)

    @rule(
        tick=st.dictionaries(st.integers(0, ROLLOUTS - 1), _requests, max_size=ROLLOUTS),
        reload=st.integers(0, 9),
    )
    def run_tick(self, tick, reload):
        self.time += 1
        if reload == 0:  # a checkpoint in between changes nothing
            state = json.loads(json.dumps(self.store.get_state()["rows"]))
            bank = self.store.get_state()["bank"]
            self.store = _store()
            self.store.set_state({"bank": bank, "rows": state})
        operations = {}
        for row, request in tick.items():
            if isinstance(request, tuple):
                kind, pick, *rest = request
                names = [*self.rows[row], "mem_00000000", "mem_12345678", "nonsense"]
                request = kind(names[pick % len(names)], *rest)
            operations[row] = request
        results = self.store.execute(operations, self.time)
        assert results.keys() == operations.keys()
        for row, operation in operations.items():
            self.check(row, operation, results[row])
        for row, entries in enumerate(self.rows):
            wanted = {name: content for name, (_, content, _) in entries.items()}
            assert self.store.contents(row) == wanted
            assert list(self.store.contents(row)) == list(wanted)
            assert self.store.metadata(row) == {n: m for n, (_, _, m) in entries.items()}
            valid = np.flatnonzero(self.store.bank.valid[row])
            assert sorted(place for place, _, _ in entries.values()) == valid.tolist()

    def check(self, row, operation, result):
        entries = self.rows[row]
        match operation:
            case Add(content, metadata):
                if len(entries) == ENTRIES:
                    assert (result.ok, result.changed) == (False, False)
                    assert result.error == (
                        "The memory is full (4 entries); delete or update an entry first."
                    )
                    return
                places = {place for place, _, _ in entries.values()}
                place = min(set(range(ENTRIES)) - places)
                assert result.ok and result.changed and result.memory_id not in entries
                stored = {"source": "agent", **(metadata or {}), "timestamp": self.time}
                entries[result.memory_id] = (place, content, stored)
            case Update(name, content, metadata) if name in entries:
                place, old_content, old = entries[name]
                new = dict(old)
                if metadata is not None:
                    new = {"source": old["source"], **metadata, "timestamp": old["timestamp"]}
                    if "modified" in old:
                        new["modified"] = old["modified"]
                changed = (content, new) != (old_content, old)
                assert (result.ok, result.memory_id) == (True, name)
                assert result.changed == changed
                if changed:
                    entries[name] = (place, content, new | {"modified": self.time})
            case Delete(name) if name in entries:
                assert (result.ok, result.changed, result.memory_id) == (True, True, name)
                del entries[name]
            case Update(name) | Delete(name):
                assert (result.ok, result.changed) == (False, False)
                assert result.error == (
                    f"No memory has the id '{name}'; use an id from a retrieval or an add result."
                )
            case Retrieve(query, top_k, wanted):
                matching = [
                    (-_score(content, query), place, name, content)
                    for name, (place, content, metadata) in entries.items()
                    if all(k in metadata and metadata[k] == v for k, v in (wanted or {}).items())
                ]
                best = [(n, c, -s) for s, _, n, c in sorted(matching)[:top_k]]
                assert result.ok and not result.changed
                assert [dataclasses.astuple(entry) for entry in result.entries] == best
            case Clear():
                assert (result.ok, result.changed) == (True, bool(entries))
                entries.clear()


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestStoreBehavesAsADictionaryUnderRandomTicks = StoreMachine.TestCase


def test_a_tick_embeds_once_and_repeated_texts_once():
    store = _store()
    store.execute({0: Add("abc"), 1: Add("abc"), 2: Retrieve("b")}, 1)
    assert store.embedder.calls == [["abc", "b"]]


def test_ticks_of_any_kind_and_size_never_compile_again(caplog):
    store = MemoryStore.create(CountingEmbedder(), 5, 6)  # sizes no other test compiles
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        store.execute({0: Add("a")}, 1)
        first = [r for r in caplog.records if "apply" in r.getMessage()]
        assert first, "the log of compilations is what this test counts"
        caplog.clear()
        name = next(iter(store.contents(0)))
        store.execute({0: Update(name, "b"), 1: Add("c"), 2: Retrieve("a", 1), 3: Clear("k")}, 2)
        store.execute({row: Retrieve("b" * row, row + 1, {"x": 1}) for row in range(5)}, 3)
        store.set_state(store.get_state())
        store.execute({0: Delete(name), 4: Delete("mem_00000001")}, 4)
        assert [r.getMessage() for r in caplog.records if "ompil" in r.getMessage()] == []


def test_failed_operations_leave_the_bank_bit_identical():
    store = _store()
    for _ in range(ENTRIES):
        store.execute({0: Add("abc")}, 1)
    before, rows = _bits(store), copy.deepcopy(store.get_state()["rows"])
    results = store.execute({0: Add("b"), 1: Update("mem_00000005", "a"), 2: Delete("?")}, 7)
    assert not any(result.ok for result in results.values())
    assert store.execute({0: Retrieve("a", 0)}, 8)[0].error == (
        "top_k is 0; it must be between 1 and 4."
    )
    assert _bits(store) == before
    assert store.get_state()["rows"] == rows


def test_an_update_that_changes_nothing_leaves_the_bank_bit_identical():
    store = _store()
    name = store.execute({0: Add("abc", {"topic": 1})}, 1)[0].memory_id
    before = _bits(store)
    for metadata in (None, {"topic": 1}):
        result = store.execute({0: Update(name, "abc", metadata)}, 5)[0]
        assert result.ok and not result.changed
    assert _bits(store) == before
    assert store.execute({0: Update(name, "abc", {"topic": 2})}, 6)[0].changed


def test_ids_follow_from_the_key_and_not_from_the_row_or_its_neighbours():
    store = _store()
    store.clear(0, "episode 1")
    store.clear(2, "episode 2")
    first = [store.execute({0: Add("a"), 2: Add("a")}, t) for t in range(2)]
    store.clear(1, "episode 1")
    second = [store.execute({1: Add("c")}, t)[1].memory_id for t in range(2)]
    assert second == [tick[0].memory_id for tick in first]
    assert second != [tick[2].memory_id for tick in first]
    assert all(parse_memory_id(name) for name in second)


def test_a_deleted_id_is_not_given_out_again():
    store = _store()
    seen = set()
    for time in range(20):
        name = store.execute({0: Add("a")}, time)[0].memory_id
        assert name not in seen
        seen.add(name)
        store.execute({0: Delete(name)}, time)


def test_derived_ids_do_not_collide():
    assert len({derive_id(0x5EED, counter) for counter in range(20000)}) == 20000


def test_an_imported_id_is_kept_and_a_taken_or_malformed_one_is_refused():
    store = _store()
    assert store.execute({0: Add("a", memory_id="mem_a5b40d65")}, 1)[0].ok
    assert store.contents(0) == {"mem_a5b40d65": "a"}
    taken = store.execute({0: Add("b", memory_id="mem_a5b40d65")}, 2)[0]
    assert taken.error == "A memory with the id 'mem_a5b40d65' exists already."
    assert store.execute({0: Add("b", memory_id="7")}, 2)[0].error == "'7' is not a memory id."
    assert store.contents(0) == {"mem_a5b40d65": "a"}


def test_a_metadata_filter_needs_the_key_to_be_there():
    store = _store()
    store.execute({0: Add("a", {"topic": None})}, 1)
    store.execute({0: Add("ab")}, 2)
    found = store.execute({0: Retrieve("a", 4, {"topic": None})}, 3)[0].entries
    assert [entry.content for entry in found] == ["a"]
    found = store.execute({0: Retrieve("a", 4, {"timestamp": 2})}, 3)[0].entries
    assert [entry.content for entry in found] == ["ab"]


def test_similarities_are_cosines_from_one_embedder_call():
    store = _store()
    assert store.similarities([]) == []
    found = store.similarities([("ab", "b"), ("abc", "b"), ("c", "b")])
    assert found == [1 / 64, 1 / 64, 0.0]
    assert store.embedder.calls == [["ab", "b", "abc", "c"]]


def test_a_restored_store_goes_on_exactly_as_the_saved_one():
    store = _store()
    store.clear(1, "k")
    store.execute({1: Add("abc", {"topic": 1})}, 1)
    state = store.get_state()
    other = _store()
    other.set_state(state)
    tick = {1: Add("b"), 0: Retrieve("a")}
    assert other.execute(tick, 2) == store.execute(tick, 2)
    assert _bits(other) == _bits(store)
    again = _store()
    again.set_state(state)  # a tick of the store must not have touched what was saved
    assert again.contents(1) == {format_memory_id(state["rows"][1]["records"][0]["id"]): "abc"}


def test_a_state_of_another_size_is_refused_and_changes_nothing():
    store = _store()
    store.execute({0: Add("a")}, 1)
    before = _bits(store)
    with pytest.raises(ValueError, match="create it with the saved sizes"):
        store.set_state(MemoryStore.create(CountingEmbedder(), ROLLOUTS, 9).get_state())
    assert _bits(store) == before


def test_a_row_that_does_not_exist_is_refused_before_anything_happens():
    store = _store()
    with pytest.raises(ValueError, match="Memory row 3 does not exist; rows are 0 to 2"):
        store.execute({0: Add("a"), 3: Add("b")}, 1)
    assert store.contents(0) == {}


def test_top_k_beyond_the_static_maximum_is_an_error_and_not_a_shorter_answer():
    store = _store(max_top_k=2)
    assert store.execute({0: Retrieve("a", 3)}, 1)[0].error == (
        "top_k is 3; it must be between 1 and 2."
    )


@pytest.mark.parametrize("entries", [16, 64])
def test_a_retrieval_may_ask_for_as_many_as_a_row_holds_and_for_more(entries):
    store = MemoryStore.create(CountingEmbedder(), ROLLOUTS, entries)
    for number in range(entries):
        store.execute({0: Add("ab" * (number + 1)), 1: Add("c")}, number)
    for top_k in (3, 15, 17, 20, entries, 1000):
        found = store.execute({0: Retrieve("ab", top_k), 1: Retrieve("c", 1)}, 99)
        assert [len(found[row].entries) for row in (0, 1)] == [min(top_k, entries), 1]
        scores = [entry.score for entry in found[0].entries]
        assert scores == sorted(scores, reverse=True)
        assert len({entry.memory_id for entry in found[0].entries}) == len(scores)


def test_a_wide_retrieval_widens_the_compiled_tick_once(caplog):
    store = MemoryStore.create(CountingEmbedder(), 2, 65)  # sizes no other test compiles
    store.execute({0: Add("a")}, 1)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        store.execute({0: Retrieve("a", 20)}, 2)
        assert [r for r in caplog.records if "apply" in r.getMessage()]
        caplog.clear()
        store.execute({0: Retrieve("a", 17), 1: Retrieve("a", 32)}, 3)
        store.execute({0: Add("b"), 1: Retrieve("a", 1)}, 4)
        assert [r.getMessage() for r in caplog.records if "ompil" in r.getMessage()] == []


def test_each_row_can_have_its_own_time():
    store = _store()
    names = store.execute({0: Add("a"), 2: Add("b")}, {0: 3, 2: 8})
    store.execute({2: Update(names[2].memory_id, "c")}, {2: 9})
    stamps = [next(iter(store.metadata(row).values())) for row in (0, 2)]
    assert stamps[0] == {"source": "agent", "timestamp": 3}
    assert stamps[1] == {"source": "agent", "timestamp": 8, "modified": 9}
    assert store.bank.created[:, 0].tolist() == [3, 0, 8]
    assert store.bank.modified[:, 0].tolist() == [3, 0, 9]
