"""Long-term memories that last: those of many users in one SQLite file.

The same operations, results and sentences as `memory.store.MemoryStore`, whose rows are users
here. What is acknowledged is on the disk. No user's operation sees or changes another's memories.
"""

import collections
import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float

from agemem_jax.memory import answers
from agemem_jax.memory.answers import Result
from agemem_jax.memory.embedders import Embedder, embed_unique, similarities
from agemem_jax.memory.operations import (
    Add,
    Clear,
    Delete,
    Operation,
    Retrieve,
    Update,
    format_memory_id,
    parse_memory_id,
    text_of,
)
from agemem_jax.memory.rows import Record, Row, added_metadata, empty_row, updated_metadata
from agemem_jax.serving.memory.held_memory import (
    HeldMemory,
    check_name,
    check_values,
    packed,
    unpacked,
)
from agemem_jax.serving.memory.memory_file import MemoryFile

_PROBE = "Ana moved from Rome to Oslo in 2019."  # what tells one embedder from another
_EMBED_AT_ONCE = 256


class SQLiteStore:
    """Memories by user, at most `entries` of each.

    Every method may be called from any thread; they take turns. In a process there is one store
    for a file, and a second process is refused.

    Attributes:
      embedder: enc(.), for contents and queries alike.
      entries: capacity of a user's memory.
      max_top_k: the most entries that one retrieval may ask for; where it is the capacity, one
        that asks for more gets what there is.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        embedder: Embedder,
        *,
        entries: int = 4096,
        max_top_k: int | None = None,
        cached_users: int = 256,
    ):
        """Opens the memories in `path`; None keeps them in this process, and they end with it.

        Where the file was written with another embedder, all its memories are embedded anew.

        Args:
          path: of the file; it is made where it is missing.
          embedder: of contents and queries.
          entries: capacity of a user's memory. A memory that holds more already keeps it.
          max_top_k: by default `entries`.
          cached_users: whose memories stay in this process's memory; all others are read again.

        Raises:
          BlockingIOError: another process has the file open.
          ValueError: a size is wrong, or the file is no memory that this version can read.
          OSError: the file cannot be read or written.
        """
        max_top_k = entries if max_top_k is None else max_top_k
        if entries < 1 or not 1 <= max_top_k <= entries or cached_users < 1:
            raise ValueError(
                f"A memory has entries={entries}, max_top_k={max_top_k} and "
                f"cached_users={cached_users}; they must be at least 1, and max_top_k at most "
                "entries."
            )
        self.embedder, self.entries, self.max_top_k = embedder, entries, max_top_k
        self._cached_users = cached_users
        self._held: collections.OrderedDict[str, HeldMemory] = collections.OrderedDict()
        self.file = MemoryFile(path)
        try:
            self._adopt_embedder()
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> "SQLiteStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(
        self, requests: Mapping[str, Operation], time: int | Mapping[str, int]
    ) -> dict[str, Result]:
        """Answers one operation of each user; all that they change is on the disk afterwards.

        Args:
          requests: at most one operation per user. A `Clear` empties the user's memory.
          time: for `timestamp` and `modified`: one for all, or one for each. A conversation gives
            seconds since 1970.

        Returns:
          A result for each user. An operation that fails changes nothing.

        Raises:
          ValueError: for a name that no user can have, or metadata that JSON does not hold.
          TypeError: for something that is no operation. Nothing has happened then.
          sqlite3.Error: the file could not be written, and nothing has happened.
        """
        times = time if isinstance(time, Mapping) else dict.fromkeys(requests, time)
        for user, operation in requests.items():
            check_name(user)
            check_values(operation)
        with self.file.lock:
            results = {
                user: answers.early_answer(
                    self._find(user).row, operation, self.max_top_k, self.entries
                )
                for user, operation in requests.items()
            }
            asked = {user: op for user, op in requests.items() if results[user] is None}
            texts = {user: text_of(operation) for user, operation in asked.items()}
            vectors = embed_unique(self.embedder, [t for t in texts.values() if t is not None])
            try:
                with self._transaction(asked):
                    for user, operation in asked.items():
                        vector = vectors.get(texts[user])
                        results[user] = self._answer(user, operation, vector, times[user])
            except BaseException:
                for user in asked:  # what is in the file is what counts
                    self._held.pop(user, None)
                raise
        return results

    def _transaction(self, asked: Mapping[str, Operation]) -> contextlib.AbstractContextManager:
        """One, where something may change: to look something up costs no disk its time."""
        if all(isinstance(operation, Retrieve) for operation in asked.values()):
            return contextlib.nullcontext()
        return self.file.write()

    def _answer(
        self, user: str, operation: Operation, vector: Float[np.ndarray, " dim"], now: int
    ) -> Result:
        held = self._find(user)
        row = held.row
        match operation:
            case Retrieve(top_k=top_k, metadata_filter=wanted):
                return Result(ok=True, entries=held.nearest(vector, top_k, wanted))
            case Add(content=content, metadata=metadata, memory_id=None):
                number, counter = row.next_id()
                return self._add(user, number, counter, content, metadata, vector, now)
            case Add(content=content, metadata=metadata, memory_id=name):
                number = parse_memory_id(name)
                return self._add(user, number, row.counter, content, metadata, vector, now)
            case Update(memory_id=name, content=content, metadata=metadata):
                number = row.find(name)
                if not number:
                    return answers.unknown_id(name)
                old = row.records[number]
                values = updated_metadata(old.metadata, metadata, now)
                held.put(number, Record(old.entry, content, values), vector)
                self.file.connection.execute(
                    "UPDATE memories SET content = ?, metadata = ?, embedding = ? "
                    "WHERE user = ? AND number = ?",
                    (content, json.dumps(values), packed(vector), held.user, number),
                )
                return Result(ok=True, memory_id=name, changed=True)
            case Delete(memory_id=name):
                number = row.find(name)
                if not number:
                    return answers.unknown_id(name)
                held.drop(number)
                self.file.connection.execute(
                    "DELETE FROM memories WHERE user = ? AND number = ?", (held.user, number)
                )
                return Result(ok=True, memory_id=name, changed=True)
            case Clear(key=key):
                changed = bool(row.records)
                held.row = empty_row(key)
                held.vectors = np.zeros((0, self.embedder.dim), np.float32)
                self._write_user(user, held)
                self.file.connection.execute("DELETE FROM memories WHERE user = ?", (held.user,))
                return Result(ok=True, changed=changed)

    def _add(
        self,
        user: str,
        number: int,
        counter: int,
        content: str,
        metadata: Mapping[str, Any] | None,
        vector: Float[np.ndarray, " dim"],
        now: int,
    ) -> Result:
        held, name = self._find(user), format_memory_id(number)
        records = held.row.records
        if number in records or not number:
            return answers.id_taken(name)
        if len(records) >= self.entries:
            return answers.full(self.entries)
        (place,) = held.free_places(1)
        values = added_metadata(metadata, now)
        held.row.counter = counter
        self._write_user(user, held)
        self._insert(held, number, Record(place, content, values), vector)
        return Result(ok=True, memory_id=name, changed=True)

    def _insert(
        self, held: HeldMemory, number: int, record: Record, vector: Float[np.ndarray, " dim"]
    ) -> None:
        held.put(number, record, vector)
        self.file.connection.execute(
            "INSERT INTO memories (user, number, place, content, metadata, embedding) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (held.user, number, record.entry, record.content, json.dumps(record.metadata),
             packed(vector)),
        )  # fmt: skip

    def _write_user(self, user: str, held: HeldMemory) -> None:
        """Keeps where the ids of a user have come to; makes the user."""
        ((held.user,),) = self.file.connection.execute(
            "INSERT INTO users (name, key_hash, counter) VALUES (?, ?, ?) ON CONFLICT (name) "
            "DO UPDATE SET key_hash = excluded.key_hash, counter = excluded.counter RETURNING user",
            (user, held.row.key_hash, held.row.counter),
        ).fetchall()

    def _find(self, user: str) -> HeldMemory:
        """A user's memory, read where it is not held."""
        held = self._held.get(user)
        if held is None:
            held = self._held[user] = self._read(user)
            while len(self._held) > self._cached_users:
                self._held.popitem(last=False)
        self._held.move_to_end(user)
        return held

    def _read(self, user: str) -> HeldMemory:
        found = self.file.rows("SELECT user, key_hash, counter FROM users WHERE name = ?", (user,))
        if not found:
            return HeldMemory(None, empty_row(user), np.zeros((0, self.embedder.dim), np.float32))
        number, key_hash, counter = found[0]
        rows = self.file.rows(
            "SELECT number, place, content, metadata, embedding FROM memories WHERE user = ? "
            "ORDER BY entry", (number,),
        )  # fmt: skip
        places = 1 + max((place for _, place, *_ in rows), default=-1)
        held = HeldMemory(
            number, Row(key_hash, counter, {}), np.zeros((places, self.embedder.dim), np.float32)
        )
        for memory, place, content, metadata, embedding in rows:
            held.row.records[memory] = Record(place, content, json.loads(metadata))
            held.vectors[place] = unpacked(embedding)
        return held

    def contents(self, user: str) -> dict[str, str]:
        """Texts of a user by memory id, oldest entry first."""
        return {name: record.content for name, record in self.records(user).items()}

    def metadata(self, user: str) -> dict[str, dict[str, Any]]:
        """Metadata of a user by memory id, oldest entry first."""
        return {name: dict(record.metadata) for name, record in self.records(user).items()}

    def records(self, user: str) -> dict[str, Record]:
        """What a user has by memory id, oldest entry first."""
        check_name(user)
        with self.file.lock:
            records = self._find(user).row.records
            return {format_memory_id(number): record for number, record in records.items()}

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Cosine of each of the `pairs` (text, criteria), for the context filter's threshold."""
        with self.file.lock:  # an embedder may keep what it knows of words
            return similarities(self.embedder, pairs)

    def users(self) -> dict[str, int]:
        """How many memories each user has, by name."""
        return dict(
            self.file.rows(
                "SELECT name, count(entry) FROM users LEFT JOIN memories USING (user) "
                "GROUP BY user ORDER BY name"
            )
        )

    def delete_user(self, user: str) -> bool:
        """Removes a user with all memories, and leaves nothing of them in the files.

        Returns:
          Whether there was such a user.
        """
        check_name(user)
        with self.file.lock:
            with self.file.write() as connection:
                deleted = connection.execute("DELETE FROM users WHERE name = ?", (user,)).rowcount
            self._held.pop(user, None)
            self.purge()
        return bool(deleted)

    def restore(self, user: str, records: Mapping[str, Record]) -> None:
        """Gives a user memories with their ids and their metadata, times included, all or none.

        Args:
          user: who has none of these ids.
          records: by memory id, in order; their `entry` does not count.

        Raises:
          ValueError: an id is wrong or taken, a value cannot be stored, or the memory would have
            more than `entries`; nothing has changed then.
        """
        check_name(user)
        for record in records.values():
            check_values(Add(record.content, record.metadata))
        with self.file.lock:
            held = self._find(user)
            numbers = {name: parse_memory_id(name) or 0 for name in records}
            wrong = [n for n, number in numbers.items() if not number or number in held.row.records]
            if wrong:
                raise ValueError(
                    f"A memory cannot be stored as {answers.short(wrong[0])!r}: that is no memory "
                    f"id, or {user!r} has one of this id already."
                )
            if len(held.row.records) + len(records) > self.entries:
                raise ValueError(answers.full(self.entries).error)
            vectors = embed_unique(self.embedder, [each.content for each in records.values()])
            free = iter(held.free_places(len(records)))
            try:
                with self.file.write():
                    self._write_user(user, held)
                    for name, record in records.items():
                        placed = dataclasses.replace(record, entry=next(free))
                        self._insert(held, numbers[name], placed, vectors[record.content])
            except BaseException:
                self._held.pop(user, None)
                raise

    def purge(self) -> None:
        """Leaves nothing of what was deleted or replaced in the files; see `MemoryFile.purge`."""
        self.file.purge()

    def check(self) -> list[str]:
        """What is wrong with the file, a sentence each; none is a good file."""
        found = self.file.check()
        size = 4 * self.embedder.dim
        for name, number in self.file.rows(
            "SELECT name, number FROM memories JOIN users USING (user) "
            "WHERE length(embedding) != ?", (size,),
        ):  # fmt: skip
            found.append(f"The embedding of {format_memory_id(number)} of {name!r} is cut off.")
        return found

    def close(self) -> None:
        """Lets other processes have the file; may be called twice."""
        self.file.close()

    def _adopt_embedder(self) -> None:
        """Compares what the file was embedded with; embeds all of it anew where that differs."""
        (probe,) = self.embedder.embed([_PROBE])
        found = self.file.rows("SELECT value FROM meta WHERE name = 'probe'")
        if found:
            known = unpacked(found[0][0])
            if known.shape == probe.shape and np.allclose(known, probe, atol=1e-3):
                return
        with self.file.write() as connection:
            rows = connection.execute("SELECT entry, content FROM memories").fetchall()
            if rows:
                logging.info("Embedding %d memories anew, for another embedder", len(rows))
            for first in range(0, len(rows), _EMBED_AT_ONCE):
                part = rows[first : first + _EMBED_AT_ONCE]
                vectors = self.embedder.embed([content for _, content in part])
                connection.executemany(
                    "UPDATE memories SET embedding = ? WHERE entry = ?",
                    [(packed(v), entry) for v, (entry, _) in zip(vectors, part, strict=True)],
                )
            connection.execute(
                "INSERT INTO meta VALUES ('probe', ?) ON CONFLICT (name) DO UPDATE "
                "SET value = excluded.value", (packed(probe),),
            )  # fmt: skip
