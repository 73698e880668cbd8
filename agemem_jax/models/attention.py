"""Grouped-query attention as functions of arrays, as XLA computes it on any device.

Caches are attended with a mask; packed rows along the paths of a forest, behind a prefix
that all rows may share. Axis order: [batch, token, head, head_dim]
for queries, [batch, kv_head, length, head_dim] for values, and [batch, kv_head, head_dim, length]
for the keys of a cache, as products want them.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agemem_jax.models.kernels.forest import MASKED, Tiling


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How scores come about.

    Attributes:
      scale: what the products of queries and keys are multiplied with.
      softcap: c of c * tanh(score / c); 0 is none.
      window: how many tokens back attention reaches, the token itself counted; 0 is all.
    """

    scale: float
    softcap: float = 0.0
    window: int = 0

    def tiling(self, queries: int, keys: int, *, interpret: bool = False) -> Tiling:
        """The settings of a kernel with blocks of these sizes."""
        return Tiling(self.scale, self.softcap, self.window, queries, keys, interpret)


@flax.struct.dataclass
class Packing:
    """How packed rows attend.

    Attributes:
      visible_to: index behind the last token of the row that attends to this one. Tokens
        stand in the order of a walk through a forest, so that a token's followers are the
        neighbours behind it, as far as their common path goes; 0 is padding, which nothing
        attends to.
      uses_prefix: whether a token also attends to the shared prefix.
    """

    visible_to: Int[Array, "row token"]
    uses_prefix: Bool[Array, "row token"]


def cache_mask(
    positions: Int[Array, "batch token"], length: int, window: int
) -> Bool[Array, "batch token length"]:
    """What tokens at `positions` see of a cache: themselves, and back to the window's end."""
    distance = positions[:, :, None] - jnp.arange(length)
    mask = distance >= 0
    return mask & (distance < window) if window else mask


def attend_cache(
    query: Float[Array, "batch token head head_dim"],
    keys: Sequence[Float[Array, "batch kv_head head_dim length"]],
    values: Sequence[Float[Array, "batch kv_head length head_dim"]],
    positions: Int[Array, "batch token"],
    scoring: Scoring,
) -> Float[Array, "batch token head head_dim"]:
    """Attention of tokens at `positions` to a cache that holds them and what came before.

    Args:
      query: of the tokens.
      keys, values: the parts of the cache, one behind the other.
      positions: where the tokens stand.
      scoring: how.
    """
    parts, start = [], 0
    for key, value in zip(keys, values, strict=True):
        mask = cache_mask(positions - start, value.shape[2], scoring.window)
        parts.append((key.astype(query.dtype), value.astype(query.dtype), mask))
        start += value.shape[2]
    return _attend_parts(query, parts, scoring)


def _attend_parts(query, parts, scoring: Scoring):
    """Attention over several (keys, values, mask), as if they stood one after another."""
    batch, tokens, heads, dim = query.shape
    kv_heads = parts[0][0].shape[-3]
    rows = query.reshape(batch, tokens, kv_heads, heads // kv_heads, dim)
    rows = jnp.moveaxis(rows, 1, 3)  # [batch, kv_head, group, token, head_dim]
    split, rows = rows.shape, rows.reshape(batch, kv_heads, -1, dim)
    scores = []
    for keys, _, mask in parts:
        score = _product(rows, keys, preferred_element_type=jnp.float32)
        score = scoring.scale * score.reshape(*split[:-1], -1)
        if scoring.softcap:
            score = scoring.softcap * jnp.tanh(score / scoring.softcap)
        scores.append(jnp.where(mask[:, None, None], score, MASKED))
    probabilities = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    probabilities = probabilities.reshape(*rows.shape[:-1], -1)
    mixed, start = 0.0, 0
    for keys, values, _ in parts:
        length = keys.shape[-1]
        share = probabilities[..., start : start + length].astype(values.dtype)
        mixed, start = mixed + _product(share, values), start + length
    return jnp.moveaxis(mixed.reshape(split), 3, 1).reshape(batch, tokens, heads, dim)


def _product(left, right, **options):
    """[batch, kv_head, x, y] times [batch, kv_head, y, z].

    Not an einsum, which may choose the other order of its operands: XLA's CPU backend
    computes the values' product five times as slow then.
    """
    sides = (((3,), (2,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(left, right, sides, **options)
