"""Long-term memory M of many rollouts as one pytree, and pure functions on it.

Section 3.2's `Add`, `Update`, `Delete` and `Retrieve` on arrays: one row per rollout, a
fixed number of entries per row. Each function is written for a single row and mapped over
rollouts, so rows never mix and the rollout axis can be sharded without communication.
Texts live beside the bank on the host (store.py). Axis order: [rollout, entry, dim].
"""

import enum
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt32

from agemem_jax.memory.operations import OperationArrays, OperationKind
from agemem_jax.memory.top_k import top_k


class Status(enum.IntEnum):
    """How the bank answers a row."""

    NONE = 0  # nothing was asked
    OK = 1
    FULL = 2  # no free entry to add to; nothing was dropped
    UNKNOWN_ID = 3  # no entry has the id to update or delete
    ID_TAKEN = 4  # the id to add is in use, or is 0, which marks free entries


@flax.struct.dataclass
class Bank:
    """Memories of all rollouts. Entries that are not valid are zero in every field.

    Attributes:
      embeddings: enc(content), unit norm (or zero for an empty content).
      valid: which entries hold a memory.
      ids: unique among the valid entries of a row, never 0 for a valid entry.
      created: logical time of the add.
      modified: logical time of the last add or update.
      lengths: content length in characters.
    """

    embeddings: Float[Array, "rollout entry dim"]
    valid: Bool[Array, "rollout entry"]
    ids: UInt32[Array, "rollout entry"]
    created: Int32[Array, "rollout entry"]
    modified: Int32[Array, "rollout entry"]
    lengths: Int32[Array, "rollout entry"]


@flax.struct.dataclass
class BankResults:
    """What the bank answers to one tick.

    Attributes:
      status: a `Status` per row.
      entry: the entry added, updated or deleted; -1 where there is none.
      entries: the entries retrieved, best first; -1 behind the last one.
      ids: their ids; 0 behind the last one.
      scores: their similarities to the query; -inf behind the last one.
    """

    status: Int32[Array, " rollout"]
    entry: Int32[Array, " rollout"]
    entries: Int32[Array, "rollout max_top_k"]
    ids: UInt32[Array, "rollout max_top_k"]
    scores: Float[Array, "rollout max_top_k"]


def init_bank(rollouts: int, entries: int, dim: int) -> Bank:
    """An empty bank.

    Raises:
      ValueError: when a size is not positive.
    """
    for name, size in (("rollouts", rollouts), ("entries", entries), ("dim", dim)):
        if size < 1:
            raise ValueError(f"A memory bank needs at least 1 for {name}, not {size}.")
    shape = (rollouts, entries)
    return Bank(
        embeddings=jnp.zeros((*shape, dim), jnp.float32),
        valid=jnp.zeros(shape, jnp.bool_),
        ids=jnp.zeros(shape, jnp.uint32),
        created=jnp.zeros(shape, jnp.int32),
        modified=jnp.zeros(shape, jnp.int32),
        lengths=jnp.zeros(shape, jnp.int32),
    )


# What follows works on one row: `row` is a Bank and `op` an OperationArrays without the
# rollout axis. A function does nothing to a row whose kind is not its own, and answers
# (status NONE, entry -1) there, so that the answers of all of them can be combined.


def _write(row: Bank, entry: Int32[Array, ""], do: Bool[Array, ""], **values: Array) -> Bank:
    """Sets fields of one entry where `do`, and touches nothing where not."""
    # An index behind the end with mode "drop" leaves the row alone without copying it.
    target = jnp.where(do, entry, row.valid.shape[0])
    return row.replace(
        **{
            name: getattr(row, name).at[target].set(value, mode="drop")
            for name, value in values.items()
        }
    )


def _find(row: Bank, wanted: UInt32[Array, ""]) -> tuple[Bool[Array, ""], Int32[Array, ""]]:
    match = row.valid & (row.ids == wanted)
    return match.any(), jnp.argmax(match).astype(jnp.int32)


def _answer(asked, failures, entry) -> tuple[Int32[Array, ""], Int32[Array, ""], Bool[Array, ""]]:
    """Status, entry and success, from (condition, status) pairs, the first one wins."""
    status = jnp.int32(Status.OK)
    for failed, name in reversed(failures):
        status = jnp.where(failed, jnp.int32(name), status)
    status = jnp.where(asked, status, jnp.int32(Status.NONE))
    done = status == Status.OK
    return status, jnp.where(done, entry, -1), done


def _add(row: Bank, op: OperationArrays):
    taken, _ = _find(row, op.id)
    entry = jnp.argmin(row.valid).astype(jnp.int32)  # the first free one
    status, entry, done = _answer(
        op.kind == OperationKind.ADD,
        [(taken | (op.id == 0), Status.ID_TAKEN), (row.valid.all(), Status.FULL)],
        entry,
    )
    row = _write(
        row,
        entry,
        done,
        embeddings=op.embedding,
        valid=True,
        ids=op.id,
        created=op.time,
        modified=op.time,
        lengths=op.length,
    )
    return row, status, entry


def _update(row: Bank, op: OperationArrays):
    found, entry = _find(row, op.id)
    status, entry, done = _answer(
        op.kind == OperationKind.UPDATE, [(~found, Status.UNKNOWN_ID)], entry
    )
    row = _write(row, entry, done, embeddings=op.embedding, modified=op.time, lengths=op.length)
    return row, status, entry


def _delete(row: Bank, op: OperationArrays):
    found, entry = _find(row, op.id)
    status, entry, done = _answer(
        op.kind == OperationKind.DELETE, [(~found, Status.UNKNOWN_ID)], entry
    )
    row = _write(
        row, entry, done, embeddings=0.0, valid=False, ids=0, created=0, modified=0, lengths=0
    )
    return row, status, entry


def _clear(row: Bank, op: OperationArrays):
    asked = op.kind == OperationKind.CLEAR
    row = jax.tree.map(lambda field: jnp.where(asked, jnp.zeros_like(field), field), row)
    return row, jnp.where(asked, jnp.int32(Status.OK), jnp.int32(Status.NONE)), jnp.int32(-1)


def _retrieve(row: Bank, op: OperationArrays, max_top_k: int):
    asked = op.kind == OperationKind.RETRIEVE
    # A product and a sum rather than a dot: every entry is summed in the same order
    # wherever it lies, so equal contents tie exactly and the lower entry comes first.
    similarity = jnp.sum(row.embeddings * op.embedding, axis=-1)
    candidates = row.valid & op.candidate_mask & asked
    # Not lax.top_k, for which XLA gathers a sharded rollout axis.
    scores, entries = top_k(jnp.where(candidates, similarity, -jnp.inf), max_top_k)
    kept = (scores > -jnp.inf) & (jnp.arange(max_top_k) < op.top_k)
    status = jnp.where(asked, jnp.int32(Status.OK), jnp.int32(Status.NONE))
    return (
        status,
        jnp.where(kept, entries.astype(jnp.int32), -1),
        jnp.where(kept, row.ids[entries], jnp.uint32(0)),
        jnp.where(kept, scores, -jnp.inf),
    )


@jax.jit
def add(bank: Bank, operations: OperationArrays):
    """Adds to the rows whose kind is ADD, each into its first free entry.

    Returns:
      (bank, status [rollout], entry [rollout]); OK, FULL, ID_TAKEN, or NONE for rows of
      another kind. A row that fails keeps its bits.
    """
    return jax.vmap(_add)(bank, operations)


@jax.jit
def update(bank: Bank, operations: OperationArrays):
    """Replaces embedding, length and `modified` in the rows whose kind is UPDATE.

    Returns:
      (bank, status [rollout], entry [rollout]); OK, UNKNOWN_ID or NONE.
    """
    return jax.vmap(_update)(bank, operations)


@jax.jit
def delete(bank: Bank, operations: OperationArrays):
    """Frees one entry in the rows whose kind is DELETE.

    Returns:
      (bank, status [rollout], entry [rollout]); OK, UNKNOWN_ID or NONE.
    """
    return jax.vmap(_delete)(bank, operations)


@functools.partial(jax.jit, static_argnames="max_top_k")
def retrieve(bank: Bank, operations: OperationArrays, *, max_top_k: int):
    """The exact `top_k` most similar candidates in the rows whose kind is RETRIEVE.

    Ties go to the lower entry. Invalid entries and those outside `candidate_mask` are
    never returned; a row gets fewer than `top_k` when it has no more, and never more than
    `max_top_k`, which is at most the number of entries.

    Returns:
      (status [rollout], entries, ids, scores, each [rollout, max_top_k]) as in
      `BankResults`.
    """
    return jax.vmap(functools.partial(_retrieve, max_top_k=max_top_k))(bank, operations)


@functools.partial(jax.jit, static_argnames="k")
def search(
    embeddings: Float[Array, "entry dim"],
    valid: Bool[Array, " entry"],
    queries: Float[Array, "query dim"],
    *,
    k: int,
) -> tuple[Float[Array, "query k"], Int32[Array, "query k"]]:
    """Many queries on one row's entries: similarities and entries, best first, exact.

    Ties go to the lower entry. Behind the last valid entry similarities are -inf.
    """
    scores = jnp.einsum("qd,ed->qe", queries, embeddings)
    return top_k(jnp.where(valid, scores, -jnp.inf), k)


def _apply_row(row: Bank, op: OperationArrays, max_top_k: int):
    row, *cleared = _clear(row, op)
    row, *added = _add(row, op)
    row, *updated = _update(row, op)
    row, *deleted = _delete(row, op)
    # Last, and from the row as it is now: a second reader of the old row would force XLA
    # to copy it, and a row that retrieves has not changed.
    retrieved, entries, ids, scores = _retrieve(row, op, max_top_k)
    statuses, touched = zip(cleared, added, updated, deleted, strict=True)
    # Only one of them answers; the others say NONE (0) and entry -1.
    status = functools.reduce(jnp.maximum, (*statuses, retrieved))
    entry = functools.reduce(jnp.maximum, touched)
    return row, BankResults(status, entry, entries, ids, scores)


@functools.partial(jax.jit, static_argnames="max_top_k", donate_argnames="bank")
def apply(bank: Bank, operations: OperationArrays, *, max_top_k: int) -> tuple[Bank, BankResults]:
    """Answers a whole tick, at most one operation of any kind per row, in one call.

    Args:
      bank: is donated: its buffers are reused and must not be read afterwards.
      operations: the tick.
      max_top_k: static upper bound of `operations.top_k`, at most the number of entries.

    Returns:
      The new bank and the answers. Rows whose operation fails keep their bits.
    """
    return jax.vmap(functools.partial(_apply_row, max_top_k=max_top_k))(bank, operations)
