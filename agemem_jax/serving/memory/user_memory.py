"""One user's memories, for a person or a program to look at, search, edit and forget."""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agemem_jax.memory.answers import Result
from agemem_jax.memory.operations import Add, Delete, Operation, Retrieve, Update
from agemem_jax.memory.rows import Record
from agemem_jax.serving.memory.sqlite_store import SQLiteStore

_FORMAT = "agemem memories"
_VERSION = 1  # of the export


def seconds_now() -> int:
    """Whole seconds since 1970, which is what conversations stamp memories with."""
    return int(time.time())


@dataclasses.dataclass(frozen=True)
class MemoryEntry:
    """One memory, as it is stored.

    Attributes:
      memory_id: its id, such as `mem_a5b40d65`.
      content: the text.
      created: when it was added, in seconds since 1970.
      modified: when it was last changed; None where it never was.
      metadata: its other keys.
      score: cosine similarity to what was searched for; None outside of a search.
    """

    memory_id: str
    content: str
    created: int
    modified: int | None
    metadata: Mapping[str, Any]
    score: float | None = None


class UserMemory:
    """What a store holds of one user. Iterating gives the entries, oldest first."""

    def __init__(self, store: SQLiteStore, user: str, now: Callable[[], int] = seconds_now):
        """The memories of `user` in `store`; `now` gives the time that changes are stamped with."""
        self.store, self.user, self._now = store, user, now

    def __len__(self) -> int:
        return len(self.store.records(self.user))

    def __iter__(self) -> Iterator[MemoryEntry]:
        return iter(self.entries())

    def __getitem__(self, memory_id: str) -> MemoryEntry:
        """The entry of this id. Raises KeyError where there is none."""
        return _entry(memory_id, self.store.records(self.user)[memory_id])

    def entries(self) -> list[MemoryEntry]:
        """All entries, oldest first."""
        return [_entry(name, each) for name, each in self.store.records(self.user).items()]

    def search(self, query: str, top_k: int = 5) -> list[MemoryEntry]:
        """The `top_k` entries most similar to `query`, best first, each with its `score`.

        Raises:
          ValueError: `top_k` is below 1.
        """
        found = self._do(Retrieve(query, top_k)).entries
        records = self.store.records(self.user)
        return [
            dataclasses.replace(_entry(e.memory_id, records[e.memory_id]), score=e.score)
            for e in found
        ]

    def add(self, content: str, metadata: Mapping[str, Any] | None = None) -> str:
        """Stores a new entry of this `content` and `metadata`, as the agent's own tool does.

        Returns:
          Its id.

        Raises:
          ValueError: the memory is full, or a value cannot be stored.
        """
        return self._do(Add(content, {"source": "user", **(metadata or {})})).memory_id

    def edit(self, memory_id: str, content: str) -> None:
        """Replaces the text of the entry `memory_id` by `content`, of the old one nothing stays.

        Raises:
          ValueError: there is no such entry.
        """
        if self._do(Update(memory_id, content)).changed:
            self.store.purge()

    def forget(self, memory_id: str) -> None:
        """Removes the entry `memory_id`, and leaves nothing of it in the file.

        Raises:
          ValueError: there is no such entry.
        """
        self._do(Delete(memory_id))
        self.store.purge()

    def forget_all(self) -> int:
        """Removes the user with all entries, and leaves nothing of them in the file.

        Returns:
          How many entries there were.
        """
        count = len(self)
        self.store.delete_user(self.user)
        return count

    def export(self) -> dict[str, Any]:
        """Everything that is stored of the user, but embeddings, as values of JSON."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "user": self.user,
            "memories": [
                {"id": name, "content": record.content, "metadata": dict(record.metadata)}
                for name, record in self.store.records(self.user).items()
            ],
        }

    def export_to(self, path: str | os.PathLike) -> None:
        """Writes `export` into a new file at `path`, which its owner alone can read.

        Raises:
          FileExistsError: there is such a file.
        """
        text = json.dumps(self.export(), indent=2, ensure_ascii=False) + "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)

    def import_from(self, path: str | os.PathLike) -> int:
        """Takes the entries of the export at `path`, with their ids and times, all or none.

        Returns:
          How many they are.

        Raises:
          ValueError: it is no export, an id is in use here, or the memory would be too full.
        """
        try:
            data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            if (data["format"], data["version"]) != (_FORMAT, _VERSION):
                raise ValueError
            records = {
                each["id"]: Record(0, each["content"], _stamped(each["metadata"]))
                for each in data["memories"]
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{os.fspath(path)} is no export of memories.") from error
        self.store.restore(self.user, records)
        return len(records)

    def _do(self, operation: Operation) -> Result:
        result = self.store.execute({self.user: operation}, self._now())[self.user]
        if not result.ok:
            raise ValueError(result.error)
        return result


def _stamped(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of an export, which say when and by whom."""
    if not isinstance(metadata["timestamp"], int) or "source" not in metadata:
        raise ValueError
    return dict(metadata)


def _entry(memory_id: str, record: Record) -> MemoryEntry:
    others = {k: v for k, v in record.metadata.items() if k not in ("timestamp", "modified")}
    stamps = record.metadata["timestamp"], record.metadata.get("modified")
    return MemoryEntry(memory_id, record.content, *stamps, metadata=others)
