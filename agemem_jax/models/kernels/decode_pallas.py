"""Attention of one new token per slot over the slot's cache on TPUs.

Each slot reads its cache as far as it is filled: blocks behind the last token are neither
fetched nor computed, and nothing is of slots that are idle. A block holds as many heads as fit.
Softmax runs over blocks of keys as they come.

Axis order: [slot, kv_head, length, head_dim] for keys and values, so that a new token is a row of
either.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from agemem_jax.models.kernels.forest import MASKED, Tiling

LANES = 128
MOST = 2**20  # bytes of a block of keys; there are four, values counted and those that are fetched


def attend(
    query: Float[Array, "slot head head_dim"],
    keys: Float[Array, "slot kv_head length head_dim"],
    values: Float[Array, "slot kv_head length head_dim"],
    positions: Int[Array, " slot"],
    tiling: Tiling,
) -> Float[Array, "slot head head_dim"]:
    """Attention of the tokens at `positions`, whose keys and values are in the cache.

    A slot whose position lies past the cache is idle, and gets zeros.

    Args:
      query: one token of each slot.
      keys, values: the caches; `length` must be a multiple of `tiling.keys`.
      positions: where the tokens stand.
      tiling: static settings; `queries` is not used.

    Raises:
      ValueError: the cache does not divide into blocks.
    """
    slots, heads, dim = query.shape
    kv_heads, length = values.shape[1], values.shape[2]
    if length % tiling.keys:
        raise ValueError(
            f"A cache of {length} tokens does not divide into blocks of {tiling.keys}."
        )
    group = heads // kv_heads
    blocks = length // tiling.keys
    grouped = query.reshape(slots, kv_heads, group, dim)
    together = _heads_together(kv_heads, tiling.keys * max(dim, LANES) * keys.dtype.itemsize)
    parties = kv_heads // together
    order = jnp.arange(slots, dtype=jnp.int32)
    before = jax.lax.cummax(jnp.where(positions < length, order, 0))

    def held(slot, party, block, last, before):
        # Asked for the same block again, the pipeline fetches nothing: an idle slot asks for that
        # which the one before it had last.
        idle = last[slot] >= length
        slot = before[slot]
        first = jnp.maximum(last[slot] - tiling.window + 1, 0) if tiling.window else 0
        end = jnp.minimum(_block_of(last[slot], tiling), blocks - 1)
        block = jnp.maximum(block, jnp.minimum(_block_of(first, tiling), end))
        block = jnp.where(idle, end, jnp.minimum(block, end))
        return slot, jnp.where(idle, parties - 1, party), block, 0

    def own(slot, party, block, last, before):
        return slot, party, 0, 0

    mixed = pl.pallas_call(
        functools.partial(_kernel, tiling=tiling),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(slots, parties, blocks),
            in_specs=[
                pl.BlockSpec((1, together, group, dim), own),
                pl.BlockSpec((1, together, tiling.keys, dim), held),
                pl.BlockSpec((1, together, tiling.keys, dim), held),
            ],
            out_specs=pl.BlockSpec((1, together, group, dim), own),
            scratch_shapes=[
                pltpu.VMEM((together, group, size), jnp.float32) for size in (1, 1, dim)
            ],
        ),
        out_shape=jax.ShapeDtypeStruct(grouped.shape, query.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        # As if all caches were full.
        cost_estimate=pl.CostEstimate(
            flops=4 * slots * heads * length * dim,
            transcendentals=slots * heads * length,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (keys, values, query, query)),
        ),
        interpret=tiling.interpret,
    )(positions, before, grouped, keys, values)
    return mixed.reshape(query.shape)


def _heads_together(kv_heads: int, size: int) -> int:
    """How many heads, of which a block takes `size` bytes, one step of the grid fetches."""
    fitting = (n for n in range(kv_heads, 0, -1) if kv_heads % n == 0 and n * size <= MOST)
    return next(fitting, 1)


def _block_of(position, tiling: Tiling):
    return jax.lax.div(jnp.maximum(position, 0), tiling.keys)


def _product(left, right, over: int):
    """Of each head by itself, in float32; `over` is the axis of `right` that is summed over."""
    axes = (((2,), (over,)), ((0,), (0,)))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)


def _kernel(last, before, query, keys, values, mixed, top, total, sum_, *, tiling: Tiling):
    del before  # is for what is fetched
    slot, block = pl.program_id(0), pl.program_id(2)
    position = last[slot]

    @pl.when(block == 0)
    def _():
        top[...] = jnp.full_like(top, MASKED)
        total[...] = jnp.zeros_like(total)
        sum_[...] = jnp.zeros_like(sum_)

    start = block * tiling.keys
    needed = (start <= position) & (position < pl.num_programs(2) * tiling.keys)
    if tiling.window:
        needed &= start + tiling.keys > position - tiling.window + 1

    @pl.when(needed)
    def _():
        score = tiling.scale * _product(query[0], keys[0].astype(query.dtype), 2)
        if tiling.softcap:
            score = tiling.softcap * jnp.tanh(score / tiling.softcap)
        index = start + jax.lax.broadcasted_iota(jnp.int32, score.shape, 2)
        mask = index <= position
        if tiling.window:
            mask &= position - index < tiling.window
        score = jnp.where(mask, score, MASKED)
        highest = jnp.maximum(top[...], jnp.max(score, axis=2, keepdims=True))
        share = jnp.where(mask, jnp.exp(score - highest), 0.0)
        shrink = jnp.exp(top[...] - highest)
        total[...] = shrink * total[...] + jnp.sum(share, axis=2, keepdims=True)
        mixture = _product(share.astype(query.dtype), values[0].astype(query.dtype), 1)
        sum_[...] = shrink * sum_[...] + mixture
        top[...] = highest

    @pl.when(block == pl.num_programs(2) - 1)
    def _():
        safe = jnp.where(total[...] > 0, total[...], 1.0)
        mixed[0] = (sum_[...] / safe).astype(mixed.dtype)
