"""The bank's pure functions against a plain numpy and dictionary model."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_jax.memory import bank as bank_lib
from agemem_jax.memory.bank import Status, init_bank
from agemem_jax.memory.operations import OperationKind, no_operations

ROLLOUTS, ENTRIES, DIM, TOP_K = 3, 4, 4, 3

# Components whose products and sums are exact in float32, so that ties are real ties.
_vectors = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=DIM, max_size=DIM)
_operations = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(
            [k for k in OperationKind for _ in range(1 if k == OperationKind.CLEAR else 5)]
        ),
        "id": st.integers(0, 6),
        "embedding": _vectors,
        "top_k": st.integers(0, 5),
        "candidate_mask": st.lists(st.booleans(), min_size=ENTRIES, max_size=ENTRIES),
        "length": st.integers(0, 100),
    }
)
_ticks = st.lists(
    st.lists(_operations, min_size=ROLLOUTS, max_size=ROLLOUTS), min_size=1, max_size=25
)


def _arrays(tick, time):
    arrays = no_operations(ROLLOUTS, ENTRIES, DIM)
    for row, operation in enumerate(tick):
        for name, value in operation.items():
            getattr(arrays, name)[row] = value
        arrays.time[row] = time
    return arrays


class _ModelRow:
    """A dictionary of entries; adds take the lowest free place."""

    def __init__(self):
        self.by_id = {}

    def run(self, op, time):
        """Returns (status, entry, [(entry, id, score), ...])."""
        kind, number = op["kind"], op["id"]
        places = {entry["place"] for entry in self.by_id.values()}
        if kind == OperationKind.NONE:
            return Status.NONE, -1, []
        if kind == OperationKind.CLEAR:
            self.by_id = {}
            return Status.OK, -1, []
        if kind == OperationKind.ADD:
            if number == 0 or number in self.by_id:
                return Status.ID_TAKEN, -1, []
            free = [place for place in range(ENTRIES) if place not in places]
            if not free:
                return Status.FULL, -1, []
            self.by_id[number] = {
                "place": free[0],
                "embedding": op["embedding"],
                "created": time,
                "modified": time,
                "length": op["length"],
            }
            return Status.OK, free[0], []
        if kind == OperationKind.RETRIEVE:
            scored = [
                (-float(np.dot(e["embedding"], op["embedding"])), e["place"], n)
                for n, e in self.by_id.items()
                if op["candidate_mask"][e["place"]]
            ]
            best = sorted(scored)[: min(op["top_k"], TOP_K)]
            return Status.OK, -1, [(place, n, -score) for score, place, n in best]
        if number not in self.by_id:
            return Status.UNKNOWN_ID, -1, []
        place = self.by_id[number]["place"]
        if kind == OperationKind.DELETE:
            del self.by_id[number]
        else:
            self.by_id[number] |= {
                "embedding": op["embedding"],
                "modified": time,
                "length": op["length"],
            }
        return Status.OK, place, []

    def arrays(self):
        embeddings = np.zeros((ENTRIES, DIM), np.float32)
        fields = np.zeros((5, ENTRIES), np.int64)
        for number, e in self.by_id.items():
            embeddings[e["place"]] = e["embedding"]
            fields[:, e["place"]] = 1, number, e["created"], e["modified"], e["length"]
        return embeddings, fields


@settings(max_examples=60, deadline=None)
@given(_ticks)
def test_bank_behaves_as_a_dictionary_under_random_ticks_of_mixed_kinds(ticks):
    bank = init_bank(ROLLOUTS, ENTRIES, DIM)
    models = [_ModelRow() for _ in range(ROLLOUTS)]
    for time, tick in enumerate(ticks, start=1):
        bank, answers = bank_lib.apply(bank, _arrays(tick, time), max_top_k=TOP_K)
        for row, (model, op) in enumerate(zip(models, tick, strict=True)):
            status, entry, retrieved = model.run(op, time)
            assert (int(answers.status[row]), int(answers.entry[row])) == (status, entry)
            padding = [(-1, 0, -np.inf)] * (TOP_K - len(retrieved))
            found = zip(
                answers.entries[row].tolist(),
                answers.ids[row].tolist(),
                answers.scores[row].tolist(),
                strict=True,
            )
            assert list(found) == retrieved + padding
    for row, model in enumerate(models):
        embeddings, fields = model.arrays()
        np.testing.assert_array_equal(np.asarray(bank.embeddings[row]), embeddings)
        names = ("valid", "ids", "created", "modified", "lengths")
        for name, wanted in zip(names, fields, strict=True):
            np.testing.assert_array_equal(np.asarray(getattr(bank, name)[row]), wanted)


def _filled_bank():
    bank = init_bank(ROLLOUTS, ENTRIES, DIM)
    rng = np.random.default_rng(0)
    for entry in range(ENTRIES):
        ops = no_operations(ROLLOUTS, ENTRIES, DIM)
        ops.kind[:] = OperationKind.ADD
        ops.id[:] = entry + 1
        ops.embedding[:] = rng.choice([-1.0, 0.5, 1.0], size=(ROLLOUTS, DIM))
        ops.time[:] = entry
        bank, _, _ = bank_lib.add(bank, ops)
    return bank


def _host(tree):
    return jax.tree.map(np.array, tree)


def test_single_kind_functions_do_what_apply_does_and_ignore_other_kinds():
    kinds = [OperationKind.UPDATE, OperationKind.DELETE, OperationKind.RETRIEVE]
    ops = no_operations(ROLLOUTS, ENTRIES, DIM)
    ops.kind[:] = kinds
    ops.id[:] = 2
    ops.embedding[:] = [1.0, 0.5, -1.0, 0.0]
    ops.top_k[:] = 2
    ops.time[:] = 9
    separate = _filled_bank()
    separate, added, _ = bank_lib.add(separate, ops)
    separate, updated, _ = bank_lib.update(separate, ops)
    separate, deleted, _ = bank_lib.delete(separate, ops)
    retrieved, entries, ids, scores = bank_lib.retrieve(separate, ops, max_top_k=TOP_K)
    together, answers = bank_lib.apply(_filled_bank(), ops, max_top_k=TOP_K)

    assert added.tolist() == [Status.NONE] * 3
    assert updated.tolist() == [Status.OK, Status.NONE, Status.NONE]
    assert deleted.tolist() == [Status.NONE, Status.OK, Status.NONE]
    assert retrieved.tolist() == [Status.NONE, Status.NONE, Status.OK]
    jax.tree.map(np.testing.assert_array_equal, _host(separate), _host(together))
    np.testing.assert_array_equal(entries, answers.entries)
    np.testing.assert_array_equal(ids, answers.ids)
    np.testing.assert_array_equal(scores, answers.scores)


def test_failed_operations_leave_the_bank_bit_identical():
    before = _host(_filled_bank())
    ops = no_operations(ROLLOUTS, ENTRIES, DIM)
    ops.kind[:] = [OperationKind.ADD, OperationKind.UPDATE, OperationKind.DELETE]
    ops.id[:] = 77
    ops.embedding[:] = 0.25
    ops.time[:] = 50
    ops.length[:] = 5
    after, answers = bank_lib.apply(_filled_bank(), ops, max_top_k=TOP_K)
    assert answers.status.tolist() == [Status.FULL, Status.UNKNOWN_ID, Status.UNKNOWN_ID]
    jax.tree.map(np.testing.assert_array_equal, _host(after), before)


def test_retrieval_equals_a_numpy_oracle_on_continuous_embeddings():
    rollouts, entries, dim, k = 2, 32, 24, 5
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(rollouts, entries, dim)).astype(np.float32)
    valid = rng.random((rollouts, entries)) < 0.7
    bank = init_bank(rollouts, entries, dim).replace(
        embeddings=embeddings,
        valid=valid,
        ids=np.where(valid, np.arange(1, entries + 1), 0).astype(np.uint32),
    )
    ops = no_operations(rollouts, entries, dim)
    ops.kind[:] = OperationKind.RETRIEVE
    ops.top_k[:] = [k, 3]
    ops.embedding[:] = rng.normal(size=(rollouts, dim))
    ops.candidate_mask[:] = rng.random((rollouts, entries)) < 0.6
    _, found, _, scores = bank_lib.retrieve(bank, ops, max_top_k=k)
    for row in range(rollouts):
        exact = embeddings[row].astype(np.float64) @ ops.embedding[row].astype(np.float64)
        allowed = np.flatnonzero(valid[row] & ops.candidate_mask[row])
        wanted = allowed[np.argsort(-exact[allowed], kind="stable")][: ops.top_k[row]]
        count = len(wanted)
        assert found[row, :count].tolist() == wanted.tolist()
        np.testing.assert_allclose(scores[row, :count], exact[wanted], rtol=1e-5, atol=1e-5)
        assert (np.asarray(found[row, count:]) == -1).all()


def test_equal_contents_tie_exactly_and_come_in_entry_order():
    entries, dim = 13, 37
    vector = np.random.default_rng(2).normal(size=dim).astype(np.float32)
    bank = init_bank(1, entries, dim).replace(
        embeddings=np.broadcast_to(vector, (1, entries, dim)),
        valid=np.ones((1, entries), bool),
        ids=np.arange(1, entries + 1, dtype=np.uint32)[None],
    )
    ops = no_operations(1, entries, dim)
    ops.kind[:] = OperationKind.RETRIEVE
    ops.top_k[:] = entries
    ops.embedding[:] = np.random.default_rng(3).normal(size=dim)
    _, found, _, scores = bank_lib.retrieve(bank, ops, max_top_k=entries)
    assert found[0].tolist() == list(range(entries))
    assert len(set(scores[0].tolist())) == 1


def test_a_bank_without_entries_is_refused():
    with pytest.raises(ValueError, match="at least 1 for entries, not 0"):
        init_bank(2, 0, 8)
