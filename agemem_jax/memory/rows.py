"""The host side of a memory row: texts, metadata, and the ids it gives out.

What the bank (bank.py) holds as arrays, a row holds as text, under the same id numbers.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from agemem_jax.memory.operations import derive_id, parse_memory_id

DEFAULT_SOURCE = "agent"  # `source` of an entry whose metadata names none
_STAMPS = ("timestamp", "modified")  # metadata keys that only the store writes


@dataclasses.dataclass(frozen=True)
class Record:
    """Host side of an entry: which one it is, its text, and its metadata."""

    entry: int
    content: str
    metadata: Mapping[str, Any]


@dataclasses.dataclass
class Row:
    """Host side of a rollout row.

    Attributes:
      key_hash: of the episode's key; the ids follow from it and from `counter`.
      counter: how many ids were given out or passed over.
      records: by id number, in insertion order.
    """

    key_hash: int
    counter: int
    records: dict[int, Record]

    def find(self, memory_id: str) -> int:
        """Number of an entry of this row, or 0, which names none."""
        number = parse_memory_id(memory_id)
        return number if number in self.records else 0

    def next_id(self) -> tuple[int, int]:
        """The id for the next add, and the counter to keep if the add succeeds."""
        counter = self.counter
        while True:
            number = derive_id(self.key_hash, counter)
            counter += 1
            if number and number not in self.records:
                return number, counter

    def get_state(self) -> dict[str, Any]:
        """Plain values, fit for JSON when the metadata that callers gave are."""
        records = [
            {"id": number, **dataclasses.asdict(record)} for number, record in self.records.items()
        ]
        return {"key_hash": self.key_hash, "counter": self.counter, "records": records}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Row":
        """Takes back what `get_state` gave."""
        records = {
            record["id"]: Record(record["entry"], record["content"], dict(record["metadata"]))
            for record in state["records"]
        }
        return cls(state["key_hash"], state["counter"], records)


def empty_row(key: str | int) -> Row:
    """A row without memories for the episode `key`."""
    digest = hashlib.blake2b(str(key).encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return Row(key_hash=int.from_bytes(digest, "big"), counter=0, records={})


def _given(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in _STAMPS}


def added_metadata(metadata: Mapping[str, Any] | None, time: int) -> dict[str, Any]:
    """Metadata of a new entry: what the caller gave, `source`, and `timestamp`."""
    return {"source": DEFAULT_SOURCE, **_given(metadata or {}), "timestamp": time}


def updated_metadata(
    old: Mapping[str, Any], new: Mapping[str, Any] | None, time: int | None
) -> dict[str, Any]:
    """Metadata after an update at `time` (None: never updated).

    The new keys replace the old ones, and None keeps the old ones; `timestamp` stays, and
    so does `source` unless a new one is given.
    """
    base = _given(old if new is None else {"source": old["source"], **new})
    stamps = {"timestamp": old["timestamp"]} | ({} if time is None else {"modified": time})
    return base | stamps
