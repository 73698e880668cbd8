"""Tool calls on long-term memory, as host dataclasses and as arrays.

A tick is at most one operation per rollout row. The store turns the operations of a
tick into one `OperationArrays`, whose shapes never depend on what was asked, so that
the bank answers every tick with the same compiled program. Axis order: [rollout, ...].
"""

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt32

_MEMORY_ID = re.compile(r"mem_([0-9a-f]{8})")


class OperationKind(enum.IntEnum):
    """What a row asks of the bank in one tick."""

    NONE = 0
    ADD = 1
    UPDATE = 2
    DELETE = 3
    RETRIEVE = 4
    CLEAR = 5


@dataclasses.dataclass(frozen=True)
class Add:
    """`Add_memory`: stores a new entry.

    Attributes:
      content: the text to store.
      metadata: the caller's keys; the store adds `timestamp` and, where absent, `source`.
      memory_id: the id to store under, as when memories are imported; None lets the
        store derive one.
    """

    content: str
    metadata: Mapping[str, Any] | None = None
    memory_id: str | None = None


@dataclasses.dataclass(frozen=True)
class Update:
    """`Update_memory`: replaces content, embedding and metadata of one entry.

    Attributes:
      memory_id: the entry, as an add or a retrieval named it.
      content: the new text.
      metadata: the new metadata; None keeps what is there.
    """

    memory_id: str
    content: str
    metadata: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Delete:
    """`Delete_memory`: removes one entry."""

    memory_id: str


@dataclasses.dataclass(frozen=True)
class Retrieve:
    """`Retrieve_memory`: the `top_k` entries most similar to `query`.

    Attributes:
      query: what to look for.
      top_k: how many entries at most, at least 1.
      metadata_filter: keys and values that an entry's metadata must have; an entry
        without one of the keys does not match.
    """

    query: str
    top_k: int = 3
    metadata_filter: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Clear:
    """Empties the row for a new episode.

    Attributes:
      key: names the episode; the row's memory ids follow from it alone, so that they do
        not depend on which row the episode runs in.
    """

    key: str | int


Operation = Add | Update | Delete | Retrieve | Clear

_KINDS = {
    Add: OperationKind.ADD,
    Update: OperationKind.UPDATE,
    Delete: OperationKind.DELETE,
    Retrieve: OperationKind.RETRIEVE,
    Clear: OperationKind.CLEAR,
}


@flax.struct.dataclass
class OperationArrays:
    """One tick for all rollout rows.

    Attributes:
      kind: an `OperationKind` per row.
      id: the entry to update or delete, or the id of the entry to add; 0 names no entry.
      embedding: of the content to store or of the query.
      top_k: how many entries a retrieval wants.
      candidate_mask: the entries that a retrieval may return (the metadata filter).
      time: logical time of the operation, for `created` and `modified`.
      length: length of the content to store, in characters.
    """

    kind: Int32[Array, " rollout"]
    id: UInt32[Array, " rollout"]
    embedding: Float[Array, "rollout dim"]
    top_k: Int32[Array, " rollout"]
    candidate_mask: Bool[Array, "rollout entry"]
    time: Int32[Array, " rollout"]
    length: Int32[Array, " rollout"]


def no_operations(rollouts: int, entries: int, dim: int) -> OperationArrays:
    """A tick in which no row asks for anything, as writable numpy arrays."""
    return OperationArrays(
        kind=np.full(rollouts, OperationKind.NONE, np.int32),
        id=np.zeros(rollouts, np.uint32),
        embedding=np.zeros((rollouts, dim), np.float32),
        top_k=np.zeros(rollouts, np.int32),
        candidate_mask=np.ones((rollouts, entries), np.bool_),
        time=np.zeros(rollouts, np.int32),
        length=np.zeros(rollouts, np.int32),
    )


def text_of(operation: Operation) -> str | None:
    """The text whose embedding the operation needs, or None if it needs none."""
    match operation:
        case Add(content=text) | Update(content=text) | Retrieve(query=text):
            return text
    return None


def encode(
    operations: Mapping[int, Operation],
    embeddings: Mapping[int, Float[np.ndarray, " dim"]],
    ids: Mapping[int, int],
    candidate_masks: Mapping[int, Bool[np.ndarray, " entry"]],
    times: Mapping[int, int],
    *,
    rollouts: int,
    entries: int,
    dim: int,
) -> OperationArrays:
    """Writes one tick's operations as arrays of fixed shapes.

    Args:
      operations: at most one operation per rollout row.
      embeddings: of `text_of(operation)`, for the rows that have one.
      ids: numbers of the entries to add, update or delete; rows left out get 0, which
        names no entry.
      candidate_masks: for retrievals with a metadata filter; rows left out may return
        every entry.
      times: logical time of every row's operation.
    """
    arrays = no_operations(rollouts, entries, dim)
    for row, operation in operations.items():
        arrays.kind[row] = _KINDS[type(operation)]
        arrays.time[row] = times[row]
        arrays.id[row] = ids.get(row, 0)
        if row in embeddings:
            arrays.embedding[row] = embeddings[row]
        if row in candidate_masks:
            arrays.candidate_mask[row] = candidate_masks[row]
        match operation:
            case Add(content=content) | Update(content=content):
                arrays.length[row] = len(content)
            case Retrieve(top_k=top_k):
                arrays.top_k[row] = min(top_k, entries)
    return arrays


def format_memory_id(number: int) -> str:
    """The name that the policy sees: `mem_` and eight hexadecimal digits."""
    return f"mem_{number:08x}"


def parse_memory_id(memory_id: str) -> int | None:
    """The number behind a memory id, or None when it does not look like one."""
    match = _MEMORY_ID.fullmatch(memory_id)
    return int(match[1], 16) if match else None


def derive_id(key_hash: int, counter: int) -> int:
    """The id number of a row's `counter`-th entry, in [0, 2**32).

    For one key this is a bijection of the counter (an exclusive-or followed by the
    finaliser of MurmurHash3, each step of which can be undone), so a row never sees the
    same id twice, and nobody has to remember which ids were given out.
    """
    x = (counter ^ key_hash) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)
