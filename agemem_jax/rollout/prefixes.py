"""Which token prefixes the slots' caches hold, and where the longest one of a context is."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

_NOTHING = -1  # in place of a token id where a cache holds none


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(differ[0]) if differ.size else length


class HeldPrefixes:
    """The tokens whose keys and values each slot's cache holds, from position 0 on."""

    def __init__(self, slots: int, length: int, shards: int = 1):
        """Slots take over only from the others of their shard, the `slots / shards` next to it."""
        self._tokens = np.full((slots, length), _NOTHING, np.int32)
        self._shard = slots // shards

    def forget(self) -> None:
        """All caches are empty."""
        self._tokens[:] = _NOTHING

    def hold(self, slot: int, token_ids: Sequence[int]) -> None:
        """The cache of `slot` holds these tokens and nothing behind them."""
        self._tokens[slot] = _NOTHING
        self._tokens[slot, : len(token_ids)] = token_ids

    def shared(self, slot: int, context: Int[np.ndarray, " token"]) -> int:
        """How much of the context, from its start, `slot` holds."""
        return common_prefix(self._tokens[slot], context)

    def longest(self, slot: int, context: Int[np.ndarray, " token"]) -> tuple[int, int]:
        """The slot that holds most of the context from its start, and how much it holds.

        `slot` itself where no other of its shard holds more.
        """
        if not len(context):
            return slot, 0
        first = slot - slot % self._shard
        same = self._tokens[first : first + self._shard, : len(context)] == context
        lengths = np.where(same.all(axis=1), len(context), same.argmin(axis=1))
        best = int(lengths.argmax())
        own = lengths[best] == lengths[slot - first]
        return (slot if own else first + best), int(lengths[best])
