"""A user's memory as it is in the file, held in this process; and what may go into a file."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from agemem_jax.memory import answers
from agemem_jax.memory.operations import Operation, format_memory_id, text_of
from agemem_jax.memory.rows import Record, Row
from agemem_jax.protocol.events import RetrievedEntry

_LONGEST_NAME = 256  # of a user, in characters


@dataclasses.dataclass
class HeldMemory:
    """One user's texts and embeddings.

    Attributes:
      user: which one in the file; None for one who never stored anything.
      row: texts, metadata and ids.
      vectors: embeddings by place, zero where nothing is.
    """

    user: int | None
    row: Row
    vectors: Float[np.ndarray, "place dim"]

    def put(self, number: int, record: Record, vector: Float[np.ndarray, " dim"]) -> None:
        """Holds an entry at its place, one that is there already or a new one."""
        if record.entry >= len(self.vectors):
            more = max(16, record.entry, len(self.vectors))  # twice as many, at least
            self.vectors = np.pad(self.vectors, ((0, more), (0, 0)))
        self.vectors[record.entry] = vector
        self.row.records[number] = record

    def drop(self, number: int) -> None:
        """Holds the entry no more."""
        self.vectors[self.row.records.pop(number).entry] = 0.0

    def free_places(self, count: int) -> list[int]:
        """The first `count` places where nothing is."""
        used = {record.entry for record in self.row.records.values()}
        return [p for p in range(len(used) + count) if p not in used][:count]

    def nearest(
        self, query: Float[np.ndarray, " dim"], top_k: int, wanted: Mapping[str, Any] | None
    ) -> tuple[RetrievedEntry, ...]:
        """The exact `top_k` entries most similar to the query; ties go to the lower place.

        Args:
          query: its embedding.
          top_k: how many at most.
          wanted: keys and values that the metadata of an entry must have.
        """
        chosen = {record.entry for record in answers.matching(self.row, wanted or {})}
        by_place = {r.entry: (n, r) for n, r in self.row.records.items() if r.entry in chosen}
        places = sorted(by_place)
        # A product and a sum, as in the bank: every entry is summed in the same order wherever it
        # lies, so equal contents tie exactly.
        scores = np.sum(self.vectors[np.array(places, np.int64)] * query, axis=-1)
        found = []
        for index in np.argsort(-scores, kind="stable")[:top_k].tolist():
            number, record = by_place[places[index]]
            score = float(scores[index])
            found.append(RetrievedEntry(format_memory_id(number), record.content, score))
        return tuple(found)


def packed(vector: Float[np.ndarray, " dim"]) -> bytes:
    """An embedding as the file holds it: float32, little-endian."""
    return np.asarray(vector, "<f4").tobytes()


def unpacked(data: bytes) -> Float[np.ndarray, " dim"]:
    """The inverse of `packed`."""
    return np.frombuffer(data, "<f4")


def check_name(user: str) -> None:
    if not isinstance(user, str) or not 0 < len(user) <= _LONGEST_NAME or not _is_text(user):
        raise ValueError(
            f"A user of a memory is {user!r}; the name must be text of 1 to {_LONGEST_NAME} "
            "characters."
        )


def check_values(operation: Operation) -> None:
    """Refuses what would come back from a file as something else."""
    text, metadata = text_of(operation), getattr(operation, "metadata", None)
    if text is not None and not _is_text(text):
        raise ValueError(
            f"{text!r} cannot be stored as a memory: it is no text, or half of a character."
        )
    try:
        same = metadata is None or json.loads(json.dumps(metadata, allow_nan=False)) == metadata
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(f"The metadata {metadata!r} of a memory must be values of JSON.")


def _is_text(text: Any) -> bool:
    try:
        text.encode("utf-8")
    except (AttributeError, UnicodeEncodeError):
        return False
    return True
