"""What a response may be, token by token: masks over the vocabulary, made on the host.

A mask depends on the token before it, so a request that has one is decoded token by token.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from jaxtyping import UInt32

_ALL = np.uint32(0xFFFFFFFF)


class Constraint(Protocol):
    """The tokens that one response may have; belongs to one request."""

    def mask(self) -> UInt32[np.ndarray, " word"]:
        """The tokens that may come next: bit `i % 32` of word `i // 32` is token i's."""
        ...

    def accept(self, token: int) -> None:
        """Tells which one came."""
        ...


def token_masks(
    constraints: Mapping[int, Constraint | None], rows: int, vocabulary: int
) -> UInt32[np.ndarray, "row word"] | None:
    """The tokens that may come next, by row; None where any may in all of them."""
    if all(constraint is None for constraint in constraints.values()):
        return None
    masks = np.full((rows, -(-vocabulary // 32)), _ALL, np.uint32)
    for row, constraint in constraints.items():
        if constraint is not None:
            masks[row] = constraint.mask()
    return masks
