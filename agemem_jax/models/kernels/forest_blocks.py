"""Attention along the paths of a forest by XLA alone, for CPU and GPU.

All blocks of queries walk together: step s takes the s-th block of keys that each of them
needs, and there are as many steps as the block with the most needs. Axis order inside of
the loops: [q_block, kv_head, token of a group's heads, head_dim], the rows' blocks one
behind the other.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agemem_jax.models.kernels.forest import MASKED, Tiling, bend, mask, needed


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
    tiling: Tiling,
    query: Float[Array, "row head token head_dim"],
    keys: Float[Array, "row kv_head length head_dim"],
    values: Float[Array, "row kv_head length head_dim"],
    q_info: Int[Array, "row token 4"],
    k_info: Int[Array, "row 2 length"],
) -> Float[Array, "row head token head_dim"]:
    """See `forest_attention`; lengths must divide into blocks."""
    return _forward(tiling, query, keys, values, q_info, k_info)[0]


@flax.struct.dataclass
class _Walk:
    """Which block of keys each block of queries takes at each step.

    Attributes:
      visits: index of the block of keys; the number of all blocks where nothing is left.
      steps: how many steps there are.
      q_info: of the blocks of queries.
      k_info: of the blocks of keys.
      starts: index in its row of a key block's first key.
    """

    visits: Int[Array, "q_block step"]
    steps: Int[Array, ""]
    q_info: Int[Array, "q_block query 4"]
    k_info: Int[Array, "k_block 2 key"]
    starts: Int[Array, " k_block"]

    def step(self, tiling: Tiling, index) -> tuple[Int[Array, " q_block"], Bool[Array, "..."]]:
        """The blocks of keys taken, and what of them is seen, [q_block, 1, 1, query, key]."""
        taken = jax.lax.dynamic_index_in_dim(self.visits, index, axis=1, keepdims=False)
        start = self.starts.at[taken].get(mode="clip")[:, None, None]
        seen = mask(tiling, self.q_info, self.k_info.at[taken].get(mode="clip"), start)
        seen &= (taken < len(self.starts))[:, None, None]
        return taken, seen[:, None, None]


def _walk(tiling: Tiling, q_info, k_info) -> _Walk:
    need = needed(tiling, q_info, k_info)
    rows, _, count = need.shape
    own = jnp.sort(jnp.where(need > 0, jnp.arange(count), count), axis=-1)
    first = jnp.arange(rows)[:, None, None] * count
    visits = jnp.where(own < count, first + own, rows * count)
    k_blocks = k_info.reshape(rows, 2, count, tiling.keys).swapaxes(1, 2)
    return _Walk(
        visits=visits.reshape(-1, count),
        steps=jnp.max(jnp.sum(need, axis=-1)),
        q_info=q_info.reshape(-1, tiling.queries, 4),
        k_info=k_blocks.reshape(-1, 2, tiling.keys),
        starts=jnp.tile(jnp.arange(count) * tiling.keys, rows),
    )


def _query_blocks(tiling: Tiling, x, kv_heads: int):
    rows, heads, tokens, dim = x.shape
    x = x.reshape(rows, kv_heads, heads // kv_heads, tokens // tiling.queries, tiling.queries, dim)
    return jnp.moveaxis(x, 3, 1).reshape(-1, kv_heads, heads // kv_heads * tiling.queries, dim)


def _query_rows(tiling: Tiling, blocks, shape):
    """The inverse of `_query_blocks`."""
    rows, heads, tokens, dim = shape
    kv_heads, count = blocks.shape[1], tokens // tiling.queries
    x = blocks.reshape(rows, count, kv_heads, heads // kv_heads, tiling.queries, dim)
    return jnp.moveaxis(x, 1, 3).reshape(shape)


def _key_blocks(tiling: Tiling, x):
    rows, kv_heads, length, dim = x.shape
    x = x.reshape(rows, kv_heads, length // tiling.keys, tiling.keys, dim)
    return x.swapaxes(1, 2).reshape(-1, kv_heads, tiling.keys, dim)


def _key_rows(blocks, shape):
    """The inverse of `_key_blocks`."""
    rows, kv_heads, _, dim = shape
    x = blocks.reshape(rows, -1, kv_heads, blocks.shape[2], dim)
    return x.swapaxes(1, 2).reshape(shape)


def _times(left, right):
    """[block, kv_head, x, y] times [block, kv_head, y, z], in float32."""
    sides = (((3,), (2,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(left, right, sides, preferred_element_type=jnp.float32)


def _times_transposed(left, right):
    """[block, kv_head, x, y] times [block, kv_head, z, y], in float32."""
    sides = (((3,), (3,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(left, right, sides, preferred_element_type=jnp.float32)


def _forward(tiling: Tiling, query, keys, values, q_info, k_info):
    walk = _walk(tiling, q_info, k_info)
    kv_heads, group = keys.shape[1], query.shape[1] // keys.shape[1]
    q = _query_blocks(tiling, query, kv_heads)
    k, v = _key_blocks(tiling, keys), _key_blocks(tiling, values)

    def step(index, carry):
        top, total, mixed = carry
        taken, seen = walk.step(tiling, index)
        score, _ = bend(tiling, _times_transposed(q, k.at[taken].get(mode="clip")))
        split = (*score.shape[:2], group, tiling.queries, tiling.keys)
        score = jnp.where(seen, score.reshape(split), MASKED).reshape(score.shape)
        highest = jnp.maximum(top, jnp.max(score, axis=-1, keepdims=True))
        # Where nothing was seen yet, all is masked and shares are 1; the first key that is
        # seen shrinks them to 0, and without one the total is not used.
        share, shrink = jnp.exp(score - highest), jnp.exp(top - highest)
        total = shrink * total + jnp.sum(share, axis=-1, keepdims=True)
        share = share.astype(v.dtype)
        return highest, total, shrink * mixed + _times(share, v.at[taken].get(mode="clip"))

    column = (*q.shape[:3], 1)
    carry = (jnp.full(column, MASKED), jnp.zeros(column), jnp.zeros(q.shape, jnp.float32))
    top, total, mixed = jax.lax.fori_loop(0, walk.steps, step, carry)
    anything = top > MASKED / 2
    mixed = jnp.where(anything, mixed / jnp.where(anything, total, 1.0), 0.0)
    # A score of MASKED less this is 0 after the exponential, also where nothing was seen.
    log_sum = jnp.where(anything, top + jnp.log(jnp.where(anything, total, 1.0)), 0.0)
    mixed = _query_rows(tiling, mixed.astype(query.dtype), query.shape)
    return mixed, (query, keys, values, q_info, k_info, mixed, log_sum)


def _backward(tiling: Tiling, saved, grad):
    query, keys, values, q_info, k_info, mixed, log_sum = saved
    walk = _walk(tiling, q_info, k_info)
    kv_heads, group = keys.shape[1], query.shape[1] // keys.shape[1]
    q, out, grad = (_query_blocks(tiling, x, kv_heads) for x in (query, mixed, grad))
    k, v = _key_blocks(tiling, keys), _key_blocks(tiling, values)
    delta = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)[:, :, None]
    log_sum = log_sum.swapaxes(2, 3)

    def step(index, carry):
        # Scores stand as [key, query] here: products over queries, of which there are two,
        # then need no transposed copy.
        q_grad, k_grad, v_grad = carry
        taken, seen = walk.step(tiling, index)
        k_taken, v_taken = (x.at[taken].get(mode="clip") for x in (k, v))
        score, bent = bend(tiling, _times_transposed(k_taken, q))
        split = (*score.shape[:3], group, tiling.queries)
        seen = jnp.moveaxis(seen, 4, 2)  # [q_block, 1, key, 1, query]
        score = jnp.where(seen, score.reshape(split), MASKED).reshape(score.shape)
        share = jnp.exp(score - log_sum)
        slope = share * (_times_transposed(v_taken, grad) - delta)
        if bent is not None:
            slope *= 1.0 - bent * bent
        slope = (slope * tiling.scale).astype(q.dtype)
        q_grad += _times(slope.swapaxes(2, 3), k_taken)
        k_grad = k_grad.at[taken].add(_times(slope, q), mode="drop")
        v_grad = v_grad.at[taken].add(_times(share.astype(grad.dtype), grad), mode="drop")
        return q_grad, k_grad, v_grad

    carry = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    q_grad, k_grad, v_grad = jax.lax.fori_loop(0, walk.steps, step, carry)
    return (
        _query_rows(tiling, q_grad.astype(query.dtype), query.shape),
        _key_rows(k_grad.astype(keys.dtype), keys.shape),
        _key_rows(v_grad.astype(values.dtype), values.shape),
        None,
        None,
    )


attend.defvjp(_forward, _backward)
