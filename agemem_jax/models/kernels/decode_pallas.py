"""Attention of one new token per slot over the slot's cache on TPUs.

Each slot reads its cache as far as it is filled: blocks behind the last token are neither
fetched nor computed. Softmax runs over blocks of keys as they come.

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


def attend(
    query: Float[Array, "slot head head_dim"],
    keys: Float[Array, "slot kv_head length head_dim"],
    values: Float[Array, "slot kv_head length head_dim"],
    positions: Int[Array, " slot"],
    tiling: Tiling,
) -> Float[Array, "slot head head_dim"]:
    """Attention of the tokens at `positions`, whose keys and values are in the cache.

    A slot whose position lies past the cache sees all of it, as with a mask.

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

    def held(slot, kv_head, block, last):
        # Asked for the same block again, the pipeline fetches nothing.
        first = jnp.maximum(last[slot] - tiling.window + 1, 0) if tiling.window else 0
        needed = jnp.clip(block, jax.lax.div(first, tiling.keys), _block_of(last, slot, tiling))
        return slot, kv_head, jnp.minimum(needed, blocks - 1), 0

    def own(slot, kv_head, block, last):
        return slot, kv_head, 0, 0

    mixed = pl.pallas_call(
        functools.partial(_kernel, tiling=tiling),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(slots, kv_heads, blocks),
            in_specs=[
                pl.BlockSpec((1, 1, group, dim), own),
                pl.BlockSpec((1, 1, tiling.keys, dim), held),
                pl.BlockSpec((1, 1, tiling.keys, dim), held),
            ],
            out_specs=pl.BlockSpec((1, 1, group, dim), own),
            scratch_shapes=[
                pltpu.VMEM(shape, jnp.float32) for shape in ((group, 1), (group, 1), (group, dim))
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
    )(positions, grouped, keys, values)
    return mixed.reshape(query.shape)


def _block_of(last, slot, tiling: Tiling):
    return jax.lax.div(jnp.maximum(last[slot], 0), tiling.keys)


def _kernel(last, query, keys, values, mixed, top, total, sum_, *, tiling: Tiling):
    slot, block = pl.program_id(0), pl.program_id(2)
    position = last[slot]

    @pl.when(block == 0)
    def _():
        top[...] = jnp.full_like(top, MASKED)
        total[...] = jnp.zeros_like(total)
        sum_[...] = jnp.zeros_like(sum_)

    start = block * tiling.keys
    needed = start <= position
    if tiling.window:
        needed &= start + tiling.keys > position - tiling.window + 1

    @pl.when(needed)
    def _():
        score = jax.lax.dot_general(
            query[0, 0], keys[0, 0].astype(query.dtype), (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        score *= tiling.scale
        if tiling.softcap:
            score = tiling.softcap * jnp.tanh(score / tiling.softcap)
        index = start + jax.lax.broadcasted_iota(jnp.int32, score.shape, 1)
        mask = index <= position
        if tiling.window:
            mask &= position - index < tiling.window
        score = jnp.where(mask, score, MASKED)
        highest = jnp.maximum(top[...], jnp.max(score, axis=1, keepdims=True))
        share = jnp.where(mask, jnp.exp(score - highest), 0.0)
        shrink = jnp.exp(top[...] - highest)
        total[...] = shrink * total[...] + jnp.sum(share, axis=1, keepdims=True)
        sum_[...] = shrink * sum_[...] + jax.lax.dot_general(
            share.astype(query.dtype), values[0, 0].astype(query.dtype),
            (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32,
        )  # fmt: skip
        top[...] = highest

    @pl.when(block == pl.num_programs(2) - 1)
    def _():
        safe = jnp.where(total[...] > 0, total[...], 1.0)
        mixed[0, 0] = (sum_[...] / safe).astype(mixed.dtype)
