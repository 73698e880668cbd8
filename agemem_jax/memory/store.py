"""Long-term memories of many rollouts: the bank on a device, texts beside it.

`MemoryStore` answers one tick of tool calls (section 3.2, at most one per rollout row)
with one call of the embedder and one jitted call on the bank, both of fixed shapes. What
goes wrong becomes a sentence that the policy can read, and changes nothing.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from agemem_jax.memory import answers as answers_lib
from agemem_jax.memory import bank as bank_lib
from agemem_jax.memory.answers import Result
from agemem_jax.memory.bank import Bank, BankResults, Status
from agemem_jax.memory.embedders import Embedder, embed_unique, similarities
from agemem_jax.memory.operations import (
    Add,
    Clear,
    Delete,
    Operation,
    Retrieve,
    Update,
    encode,
    format_memory_id,
    parse_memory_id,
    text_of,
)
from agemem_jax.memory.placement import place
from agemem_jax.memory.rows import Record, Row, added_metadata, empty_row, updated_metadata
from agemem_jax.protocol.events import RetrievedEntry

__all__ = ["MemoryStore", "Result"]

_USUAL_TOP_K = 16  # what every tick is compiled for until a retrieval asks for more


class MemoryStore:
    """Memories of `rollouts` rows with at most `entries` entries each.

    Rows do not influence each other, and a row's ids and answers depend on its own
    operations only: neither on its place, nor on its neighbours, nor on the clock.
    """

    def __init__(self, embedder: Embedder, bank: Bank, max_top_k: int):
        """Use `create`, which makes the empty bank."""
        self.embedder = embedder
        self.max_top_k = max_top_k
        self._width = min(max_top_k, _USUAL_TOP_K)
        self._bank = bank
        self._rows = [empty_row("") for _ in range(self.rollouts)]

    @classmethod
    def create(
        cls,
        embedder: Embedder,
        rollouts: int,
        entries: int,
        *,
        max_top_k: int | None = None,
        sharding: jax.sharding.Sharding | None = None,
        device: str = "auto",
    ) -> "MemoryStore":
        """An empty store.

        Args:
          embedder: enc(.), for contents and queries alike.
          rollouts: number of rows.
          entries: capacity of a row.
          max_top_k: the most entries that one retrieval may ask for; by default all. Where
            it is the capacity, a retrieval that asks for more gets what there is.
          sharding: how the leading axis of what rollouts use is split over devices; None is
            all of it on the default device.
          device: whether the bank lives there, too; see `placement.MemoryConfig`.

        Raises:
          ValueError: when a size is not positive or `max_top_k` exceeds the capacity.
        """
        make = functools.partial(bank_lib.init_bank, rollouts, entries, embedder.dim)
        # Committed to its devices also by default: a restored bank is, and jit would compile
        # the same tick twice for the two.
        bank = place(make, device, sharding or jnp.zeros(()).sharding)
        if max_top_k is None:
            max_top_k = entries
        if not 1 <= max_top_k <= entries:
            raise ValueError(
                f"max_top_k of a memory store is {max_top_k}; it must be between 1 and the "
                f"{entries} entries of a row."
            )
        return cls(embedder, bank, max_top_k)

    @property
    def bank(self) -> Bank:
        """The arrays; donated to the next `execute`, so read it before that."""
        return self._bank

    @property
    def rollouts(self) -> int:
        return self._bank.valid.shape[0]

    @property
    def entries(self) -> int:
        return self._bank.valid.shape[1]

    def execute(
        self, requests: Mapping[int, Operation], time: int | Mapping[int, int]
    ) -> dict[int, Result]:
        """Answers one tick.

        Args:
          requests: at most one operation per rollout row.
          time: logical step, for `timestamp` and `modified` (no wall clock anywhere):
            one for all rows, or one for each requesting row.

        Returns:
          A result for each requesting row. An operation that fails leaves the bank's bits
          and the row's texts as they were.

        Raises:
          ValueError: for a row that the store does not have.
          TypeError: for something that is no operation. Nothing has happened then.
        """
        times = time if isinstance(time, Mapping) else dict.fromkeys(requests, time)
        results: dict[int, Result] = {}
        asked: dict[int, Operation] = {}
        for row, operation in requests.items():
            self._check_row(row)
            early = answers_lib.early_answer(
                self._rows[row], operation, self.max_top_k, self.entries
            )
            if early is None:
                asked[row] = operation
            else:
                results[row] = early
        if not asked:
            return results

        ids: dict[int, int] = {}
        counters: dict[int, int] = {}
        masks: dict[int, Bool[np.ndarray, " entry"]] = {}
        for row, operation in asked.items():
            state = self._rows[row]
            match operation:
                case Add(memory_id=None):
                    ids[row], counters[row] = state.next_id()
                case Add(memory_id=name):
                    ids[row], counters[row] = parse_memory_id(name) or 0, state.counter
                case Update(memory_id=name) | Delete(memory_id=name):
                    ids[row] = state.find(name)
                case Retrieve(metadata_filter=wanted) if wanted:
                    masks[row] = self._matching(state, wanted)
        arrays = encode(
            asked,
            self._embed_rows(asked),
            ids,
            masks,
            times,
            rollouts=self.rollouts,
            entries=self.entries,
            dim=self.embedder.dim,
        )
        # Once wider, always: one program for all later ticks, however much they ask for.
        self._width = max(self._width, self._width_for(int(arrays.top_k.max())))
        self._bank, answers = bank_lib.apply(self._bank, arrays, max_top_k=self._width)
        answers = jax.device_get(answers)
        for row, operation in asked.items():
            results[row] = self._finish(
                row, operation, times[row], ids.get(row, 0), counters.get(row, 0), answers
            )
        return {row: results[row] for row in requests}

    def clear(self, row: int, key: str | int) -> None:
        """Empties a row for the episode `key`, from which its memory ids follow."""
        self.execute({row: Clear(key)}, time=0)

    def contents(self, row: int) -> dict[str, str]:
        """Texts of a row by memory id, oldest entry first."""
        self._check_row(row)
        records = self._rows[row].records
        return {format_memory_id(number): record.content for number, record in records.items()}

    def metadata(self, row: int) -> dict[str, dict[str, Any]]:
        """Metadata of a row by memory id, oldest entry first."""
        self._check_row(row)
        records = self._rows[row].records
        return {format_memory_id(n): dict(record.metadata) for n, record in records.items()}

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Cosine of each (text, criteria) pair, for the context filter's threshold.

        All texts go through the embedder in one call, repeated ones once.
        """
        return similarities(self.embedder, pairs)

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint needs.

        Returns:
          `bank`: numpy arrays by field; `rows`: plain values, fit for JSON when the
          metadata that callers gave are.
        """
        arrays = jax.device_get(self._bank)
        return {
            "bank": {
                field.name: np.array(getattr(arrays, field.name))
                for field in dataclasses.fields(Bank)
            },
            "rows": [row.get_state() for row in self._rows],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `get_state` gave, of a store of the same sizes.

        Raises:
          ValueError: when the sizes differ; the store then stays as it was.
        """
        fields: dict[str, jax.Array] = {}
        for field in dataclasses.fields(Bank):
            now, saved = getattr(self._bank, field.name), np.asarray(state["bank"][field.name])
            if saved.shape != now.shape:
                raise ValueError(
                    f"The saved memory has {field.name} of shape {saved.shape}; this store "
                    f"needs {now.shape}: create it with the saved sizes and embedder."
                )
            # Copied, since the next tick donates the buffer and the caller keeps its array.
            fields[field.name] = jax.device_put(saved.astype(now.dtype, copy=True), now.sharding)
        rows = [Row.from_state(row) for row in state["rows"]]
        self._bank = Bank(**fields)
        self._rows = rows

    def _width_for(self, top_k: int) -> int:
        """The next power of two, so that few different numbers are compiled for."""
        return min(self.max_top_k, 1 << max(0, top_k - 1).bit_length())

    def _check_row(self, row: int) -> None:
        if not 0 <= row < self.rollouts:
            raise ValueError(f"Memory row {row} does not exist; rows are 0 to {self.rollouts - 1}.")

    def _matching(self, row: Row, wanted: Mapping[str, Any]) -> Bool[np.ndarray, " entry"]:
        mask = np.zeros(self.entries, np.bool_)
        mask[[record.entry for record in answers_lib.matching(row, wanted)]] = True
        return mask

    def _embed_rows(
        self, operations: Mapping[int, Operation]
    ) -> dict[int, Float[np.ndarray, " dim"]]:
        texts = {row: text_of(operation) for row, operation in operations.items()}
        vectors = embed_unique(self.embedder, [t for t in texts.values() if t is not None])
        return {row: vectors[text] for row, text in texts.items() if text is not None}

    def _finish(
        self,
        row: int,
        operation: Operation,
        time: int,
        number: int,
        counter: int,
        answers: BankResults,
    ) -> Result:
        """Brings the texts of one row in line with what the bank did."""
        state = self._rows[row]
        name = format_memory_id(number)
        match Status(int(answers.status[row])), operation:
            case Status.OK, Add(content=content, metadata=metadata):
                state.records[number] = Record(
                    int(answers.entry[row]), content, added_metadata(metadata, time)
                )
                state.counter = counter
                return Result(ok=True, memory_id=name, changed=True)
            case Status.OK, Update(content=content, metadata=metadata):
                old = state.records[number]
                state.records[number] = Record(
                    old.entry, content, updated_metadata(old.metadata, metadata, time)
                )
                return Result(ok=True, memory_id=name, changed=True)
            case Status.OK, Delete():
                del state.records[number]
                return Result(ok=True, memory_id=name, changed=True)
            case Status.OK, Retrieve():
                return Result(ok=True, entries=self._retrieved(state, row, answers))
            case Status.OK, Clear(key=key):
                changed = bool(state.records)
                self._rows[row] = empty_row(key)
                return Result(ok=True, changed=changed)
            case Status.FULL, _:
                return answers_lib.full(self.entries)
            case Status.UNKNOWN_ID, Update(memory_id=asked) | Delete(memory_id=asked):
                return answers_lib.unknown_id(asked)
            case Status.ID_TAKEN, _:
                return answers_lib.id_taken(name)
        raise RuntimeError(f"The bank answered {answers.status[row]!r} to {operation!r}.")

    def _retrieved(self, state: Row, row: int, answers: BankResults) -> tuple[RetrievedEntry, ...]:
        return tuple(
            RetrievedEntry(format_memory_id(number), state.records[number].content, score)
            for number, score in zip(
                answers.ids[row].tolist(), answers.scores[row].tolist(), strict=True
            )
            if number
        )
