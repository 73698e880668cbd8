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
    whole = entries - entries % _BLOCK
    blocks = scores[..., :whole].reshape(*scores.shape[:-1], -1, _BLOCK)
    _, chosen = _pick(jnp.max(blocks, axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)  # so that candidates stand in the order of entries
    places = chosen[..., None] * _BLOCK + jnp.arange(_BLOCK)
    rest = jnp.broadcast_to(jnp.arange(whole, entries), (*scores.shape[:-1], entries - whole))
    places = jnp.concatenate([places.reshape(*scores.shape[:-1], -1), rest], axis=-1)
    values, best = _pick(jnp.take_along_axis(scores, places, axis=-1), k)
    return values, jnp.take_along_axis(places, best, axis=-1)


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
