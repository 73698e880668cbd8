"""Attention along the paths of a forest by XLA alone, for GPUs, and for CPUs without a compiler.

Blocks of queries that need about as many blocks of keys walk together, party by party: step s
takes the s-th block of keys that each of a party needs, and there are as many steps as the one
with the most needs. Axis order inside of the loops: [q_block, kv_head, token of a group's heads,
head_dim], the rows' blocks one behind the other.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from agemem_jax.models.kernels.forest import MASKED, Tiling, bend, mask, mask_by_key, needed


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


_PARTIES = 4  # more would leave less waste and smaller products
_SMALLEST_PARTY = 8  # blocks; fewer make products too small


@flax.struct.dataclass
class _Party:
    """Blocks of queries that walk together.

    Attributes:
      visits: index of the block of keys that each takes at each step; the number of all blocks
        where nothing is left.
      steps: how many steps there are.
      q_info: of the blocks of queries.
    """

    visits: Int[Array, "q_block step"]
    steps: Int[Array, ""]
    q_info: Int[Array, "q_block query 4"]


@flax.struct.dataclass
class _Walk:
    """Which block of keys each block of queries takes at each step.

    Attributes:
      parties: of all blocks of queries, stacked.
      order: the blocks of queries, party by party; a number past the last one is padding.
      k_info: of the blocks of keys.
      starts: index in its row of a key block's first key.
    """

    parties: _Party
    order: Int[Array, "party q_block"]
    k_info: Int[Array, "k_block 2 key"]
    starts: Int[Array, " k_block"]

    def step(self, tiling: Tiling, party: _Party, index):
        """The blocks of keys taken, and what of them is seen, [q_block, 1, 1, query, key]."""
        taken, seen = self._step(functools.partial(mask, tiling), party.q_info, party, index)
        return taken, seen[:, None, None]

    def step_by_key(self, tiling: Tiling, party: _Party, index):
        """The blocks of keys taken, and what of them is seen, [q_block, 1, key, 1, query]."""
        q_info = party.q_info.swapaxes(1, 2)
        taken, seen = self._step(functools.partial(mask_by_key, tiling), q_info, party, index)
        return taken, seen[:, None, :, None]

    def _step(self, compare, q_info, party: _Party, index):
        taken = jax.lax.dynamic_index_in_dim(party.visits, index, axis=1, keepdims=False)
        start = self.starts.at[taken].get(mode="clip")[:, None, None]
        seen = compare(q_info, self.k_info.at[taken].get(mode="clip"), start)
        return taken, seen & (taken < len(self.starts))[:, None, None]

    def divide(self, blocks):
        """Blocks of queries by party."""
        return blocks.at[self.order].get(mode="clip")

    def unite(self, blocks, count: int):
        """The inverse of `divide`."""
        blocks = blocks.reshape(-1, *blocks.shape[2:])
        places = jnp.zeros(count, jnp.int32).at[self.order.ravel()]
        return blocks[places.set(jnp.arange(len(blocks)), mode="drop")]


def _walk(tiling: Tiling, q_info, k_info) -> _Walk:
    need = needed(tiling, q_info, k_info)
    rows, _, count = need.shape
    own = jnp.sort(jnp.where(need > 0, jnp.arange(count), count), axis=-1)
    first = jnp.arange(rows)[:, None, None] * count
    visits = jnp.where(own < count, first + own, rows * count).reshape(-1, count)
    k_blocks = k_info.reshape(rows, 2, count, tiling.keys).swapaxes(1, 2)
    needs = jnp.sum(need, axis=-1).ravel()
    parties = min(_PARTIES, max(1, len(needs) // _SMALLEST_PARTY))
    size = -(-len(needs) // parties)
    pad = -len(needs) % size
    order = jnp.argsort(needs, descending=True)
    order = jnp.pad(order, (0, pad), constant_values=len(needs)).reshape(-1, size)
    return _Walk(
        parties=_Party(
            visits=visits.at[order].get(mode="fill", fill_value=rows * count),
            steps=jnp.max(needs.at[order].get(mode="fill", fill_value=0), axis=1),
            q_info=q_info.reshape(-1, tiling.queries, 4).at[order].get(mode="clip"),
        ),
        order=order,
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

    def step(party, q, index, carry):
        top, total, mixed = carry
        taken, seen = walk.step(tiling, party, index)
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

    def walk_together(member):
        party, q = member
        column = (*q.shape[:3], 1)
        carry = (jnp.full(column, MASKED), jnp.zeros(column), jnp.zeros(q.shape, jnp.float32))
        carry = jax.lax.fori_loop(0, party.steps, functools.partial(step, party, q), carry)
        top, total, mixed = carry
        anything = top > MASKED / 2
        mixed = jnp.where(anything, mixed / jnp.where(anything, total, 1.0), 0.0)
        # A score of MASKED less this is 0 after the exponential, also where nothing was seen.
        log_sum = jnp.where(anything, top + jnp.log(jnp.where(anything, total, 1.0)), 0.0)
        return mixed.astype(q.dtype), log_sum

    mixed, log_sum = jax.lax.map(walk_together, (walk.parties, walk.divide(q)))
    mixed = _query_rows(tiling, walk.unite(mixed, len(q)), query.shape)
    return mixed, (query, keys, values, q_info, k_info, mixed, log_sum)


def _backward(tiling: Tiling, saved, grad):
    query, keys, values, q_info, k_info, mixed, log_sum = saved
    walk = _walk(tiling, q_info, k_info)
    kv_heads, group = keys.shape[1], query.shape[1] // keys.shape[1]
    q, out, grad = (_query_blocks(tiling, x, kv_heads) for x in (query, mixed, grad))
    k, v = _key_blocks(tiling, keys), _key_blocks(tiling, values)
    split = (kv_heads, 1, group, tiling.queries)
    delta = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    delta, log_sum = delta.reshape(-1, *split), log_sum.reshape(*log_sum.shape[:2], *split)

    def step(party, q, grad, delta, log_sum, index, carry):
        # Scores stand as [key, query] here: products over queries, of which there are two,
        # then need no transposed copy. What lies between products keeps heads and tokens apart:
        # XLA's CPU backend counts every index by division where they are put together half way.
        q_grad, k_grad, v_grad = carry
        taken, seen = walk.step_by_key(tiling, party, index)
        k_taken, v_taken = (x.at[taken].get(mode="clip") for x in (k, v))
        flat = (*k_taken.shape[:3], group * tiling.queries)
        apart = (*k_taken.shape[:3], group, tiling.queries)
        score, bent = bend(tiling, _times_transposed(k_taken, q).reshape(apart))
        share = jnp.exp(jnp.where(seen, score, MASKED) - log_sum)
        slope = share * (_times_transposed(v_taken, grad).reshape(apart) - delta)
        if bent is not None:
            slope *= 1.0 - bent * bent
        slope = (slope * tiling.scale).astype(q.dtype).reshape(flat)
        q_grad += _times(slope.swapaxes(2, 3), k_taken)
        k_grad = k_grad.at[taken].add(_times(slope, q), mode="drop")
        share = share.astype(grad.dtype).reshape(flat)
        return q_grad, k_grad, v_grad.at[taken].add(_times(share, grad), mode="drop")

    def walk_together(carry, member):
        party, q, *rest = member
        begin = (jnp.zeros(q.shape, jnp.float32), *carry)
        party_step = functools.partial(step, party, q, *rest)
        q_grad, *carry = jax.lax.fori_loop(0, party.steps, party_step, begin)
        return tuple(carry), q_grad

    carry = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k, v))
    members = (walk.parties, *(walk.divide(x) for x in (q, grad, delta)), log_sum)
    (k_grad, v_grad), q_grad = jax.lax.scan(walk_together, carry, members)
    q_grad = walk.unite(q_grad, len(q))
    return (
        _query_rows(tiling, q_grad.astype(query.dtype), query.shape),
        _key_rows(k_grad.astype(keys.dtype), keys.shape),
        _key_rows(v_grad.astype(values.dtype), values.shape),
        None,
        None,
    )


attend.defvjp(_forward, _backward)
