"""Rotary positions and grouped-query attention, as functions of arrays.

Caches are attended with a mask; packed rows by segment, in blocks of queries, behind a
prefix that all rows may share. Axis order: [batch, token, head, head_dim] for queries,
[batch, kv_head, length, head_dim] for keys and values, as matrix products want them.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

BLOCK = 128  # queries per block of packed attention
_MASKED = -1e30  # finite, so that a row that sees nothing gives no NaN


def rotate(
    x: Float[Array, "batch token head head_dim"],
    positions: Int[Array, "batch token"],
    theta: float,
) -> Float[Array, "batch token head head_dim"]:
    """Rotary position embedding; the two halves of a head are the pairs' parts."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def attend(
    query: Float[Array, "batch token head head_dim"],
    keys: Float[Array, "batch kv_head length head_dim"],
    values: Float[Array, "batch kv_head length head_dim"],
    mask: Bool[Array, "batch token length"],
) -> Float[Array, "batch token head head_dim"]:
    """Grouped-query attention without repeating keys; softmax in float32."""
    return _attend_parts(query, ((keys, values, mask),))


def _attend_parts(query, parts):
    """Attention over several (keys, values, mask), as if they stood one after another.

    Keys and values without a batch axis are shared by the whole batch and not copied.
    """
    batch, tokens, heads, dim = query.shape
    kv_heads = parts[0][0].shape[-3]
    grouped = query.reshape(batch, tokens, kv_heads, heads // kv_heads, dim)
    scores = []
    for keys, _, mask in parts:
        form = "btkgd,bkld->bkgtl" if keys.ndim == 4 else "btkgd,kld->bkgtl"
        score = jnp.einsum(form, grouped, keys, preferred_element_type=jnp.float32)
        scores.append(jnp.where(mask[:, None, None], score * dim**-0.5, _MASKED))
    probabilities = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    mixed, start = 0.0, 0
    for keys, values, _ in parts:
        length = keys.shape[-2]
        share = probabilities[..., start : start + length].astype(values.dtype)
        form = "bkgtl,bkld->btkgd" if values.ndim == 4 else "bkgtl,kld->btkgd"
        mixed, start = mixed + jnp.einsum(form, share, values), start + length
    return mixed.reshape(batch, tokens, heads, dim)


@flax.struct.dataclass
class Packing:
    """How packed rows attend.

    Attributes:
      segment_ids: a token attends to itself and to earlier tokens of its segment; 0 is
        padding.
      uses_prefix: whether a token also attends to the shared prefix.
    """

    segment_ids: Int[Array, "row token"]
    uses_prefix: Bool[Array, "row token"]


def attend_packed(query, keys, values, packing: Packing, prefix):
    """Causal attention within segments, in blocks of queries.

    A block looks at no key behind its last query, which halves the work of a row.
    """
    mixed = []
    for start in range(0, query.shape[1], BLOCK):
        end = min(start + BLOCK, query.shape[1])
        ids = packing.segment_ids
        causal = jnp.arange(start, end)[:, None] >= jnp.arange(end)
        mask = causal & (ids[:, start:end, None] == ids[:, None, :end])
        parts = [(keys[:, :, :end], values[:, :, :end], mask)]
        if prefix is not None:
            shape = (*ids[:, start:end].shape, prefix[0].shape[2])
            seen = jnp.broadcast_to(packing.uses_prefix[:, start:end, None], shape)
            parts.insert(0, (prefix[0][0], prefix[1][0], seen))
        mixed.append(_attend_parts(query[:, start:end], parts))
    return jnp.concatenate(mixed, axis=1)
