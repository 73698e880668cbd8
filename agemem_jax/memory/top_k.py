"""Exact top-k of many scores, in two levels.

The k best lie in the k blocks with the best maxima, so one pass of maxima over all scores is
all that grows with their number. Ties go to the lower index. Only reductions and gathers
along the last axis are used: a sharded leading axis stays sharded.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

_BLOCK = 128


def top_k(
    scores: Float[Array, "*batch entry"], k: int
) -> tuple[Float[Array, "*batch k"], Int32[Array, "*batch k"]]:
    """The k largest scores in falling order, and where they stand.

    Where fewer than k scores are above -inf, the rest of the values is -inf, and their
    indices mean nothing.

    Raises:
      ValueError: k is larger than the number of scores.
    """
    entries = scores.shape[-1]
    if k > entries:
        raise ValueError(f"top_k of {entries} scores was asked for {k}.")
    if entries <= 2 * k * _BLOCK:
        return _pick(scores, k)
    pad = [(0, 0)] * (scores.ndim - 1) + [(0, -entries % _BLOCK)]
    blocks = jnp.pad(scores, pad, constant_values=-jnp.inf)
    blocks = blocks.reshape(*scores.shape[:-1], -1, _BLOCK)
    _, chosen = _pick(jnp.max(blocks, axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)  # so that candidates stand in the order of entries
    candidates = jnp.take_along_axis(blocks, chosen[..., None], axis=-2)
    values, places = _pick(candidates.reshape(*scores.shape[:-1], -1), k)
    block = jnp.take_along_axis(chosen, places // _BLOCK, axis=-1)
    return values, block * _BLOCK + places % _BLOCK


def _pick(scores, k: int):
    """One maximum after the other: k is small, and a sort would order everything."""
    columns = jnp.arange(scores.shape[-1], dtype=jnp.int32)

    def best(rest, _):
        index = jnp.argmax(rest, axis=-1).astype(jnp.int32)
        value = jnp.max(rest, axis=-1)
        taken = columns == index[..., None]
        return jnp.where(taken, -jnp.inf, rest), (value, index)

    _, (values, indices) = jax.lax.scan(best, scores, length=k)
    return jnp.moveaxis(values, 0, -1), jnp.moveaxis(indices, 0, -1)
