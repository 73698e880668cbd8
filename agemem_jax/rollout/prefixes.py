"""Which token prefixes the slots' caches hold, and where the longest one of a context is."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_NOTHING = -1  # in place of a token id where a cache holds none


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    length = min(len(first), len(second))
    differ = np.asarray(first[:length]) != np.asarray(second[:length])
    place = int(differ.argmax()) if length else 0
    return place if length and differ[place] else length


def begin_alike(
    first: Int[np.ndarray, " token"], second: Int[np.ndarray, " other_token"], count: int
) -> bool:
    """Whether both have `count` tokens or more, and the first so many are the same."""
    if min(len(first), len(second)) < count:
        return False
    return not count or bool((first[:count] == second[:count]).all())


class HeldPrefixes:
    """The tokens whose keys and values each slot's cache holds, from position 0 on."""

    def __init__(self, slots: int, length: int, shards: int = 1):
        """Slots take over only from the others of their shard, the `slots / shards` next to it."""
        self._tokens = np.full((slots, length), _NOTHING, np.int32)
        self._shard = slots // shards
        # By slot, what it was last compared with and how much of that it holds.
        self._compared: dict[int, tuple[Int[np.ndarray, " token"], int]] = {}

    def forget(self) -> None:
        """All caches are empty."""
        self._tokens[:] = _NOTHING
        self._compared.clear()

    def hold(self, slot: int, token_ids: Sequence[int]) -> None:
        """The cache of `slot` holds these tokens and nothing behind them."""
        self.go_on(slot, 0, token_ids)

    def go_on(self, slot: int, start: int, token_ids: Sequence[int]) -> None:
        """Behind the first `start` tokens that `slot` holds it holds these, and nothing else."""
        end = start + len(token_ids)
        self._tokens[slot, start:end] = token_ids
        self._tokens[slot, end:] = _NOTHING
        self._compared.pop(slot, None)

    def shared(self, slot: int, context: Int[np.ndarray, " token"]) -> int:
        """How much of the context, from its start, `slot` holds.

        An array that was asked about before must not have changed since.
        """
        asked, count = self._compared.get(slot, (None, 0))
        if asked is not context:
            count = common_prefix(self._tokens[slot], context)
            self._compared[slot] = context, count
        return count

    def longest(self, slot: int, context: Int[np.ndarray, " token"]) -> tuple[int, int]:
        """The slot that holds most of the context from its start, and how much it holds.

        `slot` itself where no other of its shard holds more.
        """
        own = self.shared(slot, context)
        if own == len(context):
            return slot, own
        first = slot - slot % self._shard
        rows = self._tokens[first : first + self._shard]
        # Who holds more has the token there that the slot lacks, which few have.
        others = np.flatnonzero(rows[:, own] == context[own])
        if not others.size:
            return slot, own
        same = rows[others, : len(context)] == context
        lengths = np.where(same.all(axis=1), len(context), same.argmin(axis=1))
        best = int(lengths.argmax())
        if lengths[best] <= own:
            return slot, own
        return first + int(others[best]), int(lengths[best])
