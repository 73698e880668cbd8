"""Attention of packed rows: every token to the path that leads to it, in blocks.

A token attends to its path (`visible_to`), behind a prefix that rows may share. Softmax
runs over blocks of keys as they come; blocks that no query of a block can see are skipped,
so the work follows the forest, not the square of the row. The backward pass computes
scores again from the saved log-sum-exp, so that no [token, token] array is ever held.

A cache is the simplest forest: a path for each slot, of which the last tokens ask.

Axis order: [row, head, token, head_dim].
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agemem_jax.models.kernels.forest import Tiling

# (tiling, query, keys, values, q_info, k_info) to what queries gather; see `forest.py`.
Attend = Callable[[Tiling, Array, Array, Array, Array, Array], Array]


def forest_attention(
    attend: Attend,
    tiling: Tiling,
    query: Float[Array, "row head token head_dim"],
    keys: Float[Array, "row kv_head length head_dim"],
    values: Float[Array, "row kv_head length head_dim"],
    positions: Int[Array, "row token"],
    visible_to: Int[Array, "row token"],
    uses_prefix: Bool[Array, "row token"],
) -> Float[Array, "row head token head_dim"]:
    """Attention over a shared prefix, which stands first in `keys`, and over the row itself.

    Args:
      attend: one of the implementations beside this module.
      tiling: its static settings.
      query: of the row's tokens.
      keys, values: `length` is that of the prefix (0 is none) plus that of the row.
      positions: of the row's tokens, the prefix counted where it is used.
      visible_to: index behind the last token of the row that attends to this one.
      uses_prefix: whether a token also attends to the prefix.
    """
    rows, _, tokens, _ = query.shape
    length = keys.shape[2]
    prefix = length - tokens
    pad_q, pad_k = -tokens % tiling.queries, -length % tiling.keys

    def pad(x, amount):
        return jnp.pad(x, ((0, 0), (0, 0), (0, amount), (0, 0)))

    order = jnp.broadcast_to(jnp.arange(tokens), (rows, tokens))
    first_key = jnp.where(uses_prefix, 0, prefix)
    of_prefix = jnp.broadcast_to(jnp.arange(prefix), (rows, prefix))
    seen_until = jnp.concatenate([jnp.full((rows, prefix), tokens), visible_to], axis=1)
    key_positions = jnp.concatenate([of_prefix, positions], axis=1)
    q_info = jnp.stack([first_key, order + prefix, order, positions], axis=-1).astype(jnp.int32)
    k_info = jnp.stack([seen_until, key_positions], axis=1).astype(jnp.int32)
    # Padding queries see nothing (their last key lies before the first), and padding keys
    # are seen by none.
    q_info = jnp.pad(q_info, ((0, 0), (0, pad_q), (0, 0)), constant_values=-1)
    k_info = jnp.pad(k_info, ((0, 0), (0, 0), (0, pad_k)), constant_values=-1)
    mixed = attend(tiling, pad(query, pad_q), pad(keys, pad_k), pad(values, pad_k), q_info, k_info)
    return mixed[:, :, :tokens]


def cache_attention(
    attend: Attend,
    tiling: Tiling,
    query: Float[Array, "slot head token head_dim"],
    keys: Float[Array, "slot kv_head length head_dim"],
    values: Float[Array, "slot kv_head length head_dim"],
    positions: Int[Array, "slot token"],
) -> Float[Array, "slot head token head_dim"]:
    """Attention of a chunk of each slot's tokens to the slot's cache, which holds them already.

    Args:
      attend, tiling: see `forest_attention`.
      query: of the tokens; as many as divide into blocks.
      keys, values: the caches; `length` divides into blocks.
      positions: where the tokens stand; padding stands at or past `length`, and sees nothing.
    """
    slots, length = len(keys), keys.shape[2]
    zero = jnp.zeros_like(positions)
    is_padding = positions >= length
    first, last = jnp.where(is_padding, -1, zero), jnp.where(is_padding, -1, positions)
    q_info = jnp.stack([first, last, zero, positions], axis=-1)
    index = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (slots, length))
    k_info = jnp.stack([jnp.ones_like(index), index], axis=1)
    return attend(tiling, query, keys, values, q_info, k_info)
