"""Which tokens of which slots the next prefill call computes, and what slots take over.

Slots are split into shards, one for each group of devices that shares a cache. A call has
the same number of rows for every shard, and a slot takes over from slots of its shard only.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from agemem_jax.rollout.prefixes import HeldPrefixes, begin_alike

_WORTH_WAITING = 16  # tokens that a slot can save by waiting for another's prefill


class Missing(NamedTuple):
    """What a slot does not hold yet of its context.

    Attributes:
      count: tokens to compute; 0 where another slot holds the context whole.
      slot: which one.
      source: the slot that holds most of the context; its own where no other holds more.
      start: how much of the context that is.
      context: what the slot is to hold.
    """

    count: int
    slot: int
    source: int
    start: int
    context: Int[np.ndarray, " token"]


class Call(NamedTuple):
    """What one call computes or copies.

    Attributes:
      count: rows of all shards, padding included.
      rows: what there is to do, by its row.
      in_place: whether each slot has a row, and takes nothing over from another one.
    """

    count: int
    rows: dict[int, Missing]
    in_place: bool


class PrefillPlan:
    """What slots hold, and what to do next so that they hold what they should."""

    def __init__(self, slots: int, length: int, row_counts: Sequence[int], shards: int):
        """Of `slots` slots in `shards` shards, with calls of `row_counts` rows of all shards."""
        self.held = HeldPrefixes(slots, length, shards)
        self._slots_per_shard = slots // shards
        self._row_counts = sorted({-(-rows // shards) for rows in row_counts})  # of a shard
        self.shards = shards

    @property
    def first_slots(self) -> range:
        """The first slot of every shard."""
        return range(0, self.shards * self._slots_per_shard, self._slots_per_shard)

    def missing(self, contexts: Mapping[int, Int[np.ndarray, " token"]]) -> list[Missing]:
        """What is left to do for slots that are to hold `contexts`."""
        items = []
        for slot, context in contexts.items():
            source, start = self.held.longest(slot, context)
            if start < len(context) or source != slot:
                items.append(Missing(len(context) - start, slot, source, start, context))
        return items

    def copies(self, missing: Sequence[Missing]) -> Call:
        """Contexts that another slot holds whole."""
        return self._call(self._deal(item for item in missing if not item.count))

    def chunks(self, missing: Sequence[Missing]) -> Call:
        """What to compute next, the shortest first.

        A slot whose context another slot of the call is about to compute waits for it.
        """
        items = sorted(missing, key=lambda item: (item.count, item.slot))
        return self._call(self._deal(items, waits=True))

    def places(self, call: Call) -> Int[np.ndarray, "2 row"]:
        """Sources and slots of all rows of a call, counted from the first of their shard."""
        size = self._slots_per_shard
        places = np.full((2, call.count), size, np.int32)
        for row, item in call.rows.items():
            places[:, row] = item.source % size, item.slot % size
        return places

    def _deal(self, items, waits: bool = False) -> dict[int, list[Missing]]:
        """As many items to every shard as it has rows."""
        chosen: dict[int, list[Missing]] = {}
        for item in items:
            beside = chosen.setdefault(item.slot // self._slots_per_shard, [])
            if len(beside) == self._row_counts[-1]:
                continue
            alike = item.start + _WORTH_WAITING + 1
            if not waits or not any(begin_alike(item.context, x.context, alike) for x in beside):
                beside.append(item)
        return chosen

    def _call(self, chosen: Mapping[int, list[Missing]]) -> Call:
        most = max(map(len, chosen.values()), default=0)
        count = next(size for size in self._row_counts if size >= most)
        all_items = [item for items in chosen.values() for item in items]
        if count == self._slots_per_shard and all(x.source == x.slot for x in all_items):
            return Call(self.shards * count, {x.slot: x for x in all_items}, in_place=True)
        rows = {
            shard * count + place: item
            for shard, items in chosen.items()
            for place, item in enumerate(items)
        }
        return Call(self.shards * count, rows, in_place=False)
