"""What a memory answers, wherever it is kept: results, and the sentences of those that fail.

The store of rollouts (store.py) and the one on disk (`serving.memory.sqlite_store`) share this, so
that a policy reads the same in both.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from agemem_jax.memory.operations import (
    Add,
    Clear,
    Delete,
    Operation,
    Retrieve,
    Update,
    parse_memory_id,
)
from agemem_jax.memory.rows import Record, Row, updated_metadata
from agemem_jax.protocol.events import RetrievedEntry


@dataclasses.dataclass(frozen=True)
class Result:
    """The answer to one operation.

    Attributes:
      ok: whether the operation did its work.
      error: one sentence for the policy when `ok` is false.
      memory_id: the entry added, updated or deleted.
      changed: whether the store is now different.
      entries: what a retrieval found, best first.
    """

    ok: bool
    error: str | None = None
    memory_id: str | None = None
    changed: bool = False
    entries: tuple[RetrievedEntry, ...] = ()


def early_answer(row: Row, operation: Operation, max_top_k: int, entries: int) -> Result | None:
    """Answers what follows from texts alone; None for everything else.

    Args:
      row: whose operation it is.
      operation: what was asked.
      max_top_k: the most entries that one retrieval may ask for; where that is `entries`, a
        retrieval that asks for more gets what there is.
      entries: capacity of the row.

    Raises:
      TypeError: for something that is no operation.
    """
    match operation:
        case Add(memory_id=str(name)) if not parse_memory_id(name):
            return Result(ok=False, error=f"'{short(name)}' is not a memory id.")
        case Update(memory_id=name, content=content, metadata=metadata):
            record = row.records.get(row.find(name))
            if record is None or record.content != content:
                return None
            # With the old stamp, so that only a real difference counts.
            stamp = record.metadata.get("modified")
            if updated_metadata(record.metadata, metadata, stamp) != record.metadata:
                return None
            return Result(ok=True, memory_id=name, changed=False)
        case Retrieve(top_k=top_k) if top_k < 1 or (top_k > max_top_k and max_top_k < entries):
            error = f"top_k is {top_k}; it must be between 1 and {max_top_k}."
            return Result(ok=False, error=error)
        case Add() | Delete() | Retrieve() | Clear():
            return None
    raise TypeError(
        f"A memory operation is Add, Update, Delete, Retrieve or Clear, not {operation!r}."
    )


def matching(row: Row, wanted: Mapping[str, Any]) -> Iterator[Record]:
    """The entries whose metadata has all of these keys and values."""
    for record in row.records.values():
        if all(k in record.metadata and record.metadata[k] == v for k, v in wanted.items()):
            yield record


def full(entries: int) -> Result:
    """Nothing more can be added."""
    error = f"The memory is full ({entries} entries); delete or update an entry first."
    return Result(ok=False, error=error)


def unknown_id(memory_id: str) -> Result:
    """There is nothing to update or delete under this id."""
    error = (
        f"No memory has the id '{short(memory_id)}'; use an id from a retrieval or an add result."
    )
    return Result(ok=False, error=error)


def id_taken(memory_id: str) -> Result:
    """An entry that brought its id along found it in use."""
    return Result(ok=False, error=f"A memory with the id '{memory_id}' exists already.")


def short(name: str) -> str:
    """A name that the policy wrote, cut so that it cannot flood the context."""
    return name if len(name) <= 40 else name[:40] + "..."
