"""Attention of one new token per slot over the slot's cache on NVIDIA GPUs, in Mosaic GPU.

The query heads that share a head of keys are the rows of one tile. A slot's cache is read as far
as it is filled, by several programs that take turns at its blocks, so that few slots keep all
of a GPU busy; what they gathered is put together behind.

For bfloat16 and float16. Caches may hold all layers, of which one is read in place.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from agemem_jax.models.kernels import mosaic
from agemem_jax.models.kernels.forest import Tiling

BLOCK = 64  # of keys; caches divide into it
GROUP = 64  # query heads of one head of keys, at most: rows of the tile
_STAGES = 4
_PROGRAMS = 264  # two for each processor of an H100


def suits(query: Float[Array, "slot head head_dim"], keys: Float[Array, "..."]) -> bool:
    """Whether the kernel reads such a cache."""
    half = (jnp.bfloat16, jnp.float16)
    return (
        query.dtype in half and query.dtype == keys.dtype and query.shape[-1] in (64, 128)
        and keys.shape[-2] % BLOCK == 0 and query.shape[1] // keys.shape[-3] <= GROUP
    )  # fmt: skip


def attend(
    query: Float[Array, "slot head head_dim"],
    keys: Float[Array, "layer slot kv_head length head_dim"],
    values: Float[Array, "layer slot kv_head length head_dim"],
    layer: Int[Array, ""],
    positions: Int[Array, " slot"],
    tiling: Tiling,
) -> Float[Array, "slot head head_dim"]:
    """Attention of the tokens at `positions`, whose keys and values are in the cache.

    Args:
      query: one token of each slot.
      keys, values: of all layers, for what `suits`.
      layer: which one is read.
      positions: where the tokens stand; one past the cache is idle, and gets zeros.
      tiling: how scores come about; its block sizes are not used.
    """
    slots, heads, dim = query.shape
    kv_heads, length = keys.shape[2:4]
    group, blocks = heads // kv_heads, length // BLOCK
    turns = max(1, min(blocks, -(-_PROGRAMS // (slots * kv_heads))))
    rows = query.reshape(slots, kv_heads, group, dim)
    rows = jnp.pad(rows, ((0, 0), (0, 0), (0, GROUP - group), (0, 0)))
    written = -(-group // 8) * 8  # rows of the tile
    scratch = {
        "q_own": mosaic.tiles((GROUP, dim), query.dtype),
        "k_own": mosaic.tiles((_STAGES, BLOCK, dim), keys.dtype),
        "v_own": mosaic.tiles((_STAGES, BLOCK, dim), keys.dtype),
        "out_own": plgpu.SMEM((GROUP, dim), jnp.float32),
        "sums_own": plgpu.SMEM((2, GROUP), jnp.float32),
        "q_there": plgpu.Barrier(),
        "there": plgpu.Barrier(num_barriers=_STAGES, num_arrivals=2),
        "free": plgpu.Barrier(num_barriers=_STAGES),
    }
    gathered, sums = plgpu.kernel(
        functools.partial(_kernel, tiling=tiling),
        out_type=[
            jax.ShapeDtypeStruct((slots, kv_heads, turns, written, dim), jnp.float32),
            jax.ShapeDtypeStruct((slots, kv_heads, turns, 2, GROUP), jnp.float32),
        ],
        scratch_types=scratch,
        grid=(turns, kv_heads, slots),
        grid_names=("turn", "head", "slot"),
        num_threads=2,
        thread_name="part",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=mosaic.interpreter(tiling),
    )(layer.reshape(1), positions.astype(jnp.int32), rows, keys, values)
    gathered, sums = gathered[..., :group, :], sums[..., :group]
    top = jnp.max(sums[:, :, :, 0], axis=2, keepdims=True)
    shares = jnp.exp2(sums[:, :, :, 0] - top)
    total = jnp.sum(shares * sums[:, :, :, 1], axis=2)
    mixed = jnp.sum(shares[..., None] * gathered, axis=2)
    mixed = jnp.where(total[..., None] > 0, mixed / jnp.where(total > 0, total, 1.0)[..., None], 0)
    return mixed.reshape(query.shape).astype(query.dtype)


def _kernel(
    layers, positions, query, keys, values, gathered, sums,
    *, q_own, k_own, v_own, out_own, sums_own, q_there, there, free, tiling: Tiling,
):  # fmt: skip
    turn, head, slot = (lax.axis_index(name) for name in ("turn", "head", "slot"))
    part, turns, dim = lax.axis_index("part"), gathered.shape[2], query.shape[-1]

    @pl.when(part == 1)
    def _():
        plgpu.copy_gmem_to_smem(query.at[slot, head], q_own, q_there)

    layer, position = layers[0], positions[slot]
    end = jnp.where(position < keys.shape[3], position + 1, 0)
    start = jnp.maximum(end - tiling.window, 0) if tiling.window else 0
    first, last = lax.div(start, BLOCK), lax.div(end + BLOCK - 1, BLOCK)
    steps = jnp.maximum(lax.div(last - first - turn + turns - 1, turns), 0)

    def keys_of(step):
        return (first + turn + step * turns) * BLOCK

    @pl.when(part == 1)
    def _():
        @pl.loop(0, steps)
        def _(step):
            stage = lax.rem(step, _STAGES)
            at = (layer, slot, head, pl.ds(keys_of(step), BLOCK))

            @pl.when(step >= _STAGES)
            def _():
                plgpu.barrier_wait(free.at[stage])

            plgpu.copy_gmem_to_smem(keys.at[at], k_own.at[stage], there.at[stage])
            plgpu.copy_gmem_to_smem(values.at[at], v_own.at[stage], there.at[stage])

    @pl.when(part == 0)
    def _():
        plgpu.barrier_wait(q_there)

        def step(number, carry):
            stage = lax.rem(number, _STAGES)
            plgpu.barrier_wait(there.at[stage])

            keys_here = k_own.at[stage].transpose((1, 0))
            score, _ = mosaic.bend(tiling, mosaic.product(q_own, keys_here, (GROUP, BLOCK)))
            index = plgpu.broadcasted_iota(jnp.int32, score.shape, 1, layout=mosaic.TILE)
            index += keys_of(number)
            seen = (index >= start) & (index < end)
            share, total, *numbers = mosaic.gather(score, seen, *carry)
            total = mosaic.add_product(tiling, total, share.astype(values.dtype), v_own.at[stage])
            plgpu.barrier_arrive(free.at[stage])
            return total, *numbers

        total, top, sum_ = lax.fori_loop(0, steps, step, mosaic.nothing(GROUP, dim))
        out_own[...] = total
        sums_own[0] = top
        sums_own[1] = sum_
        plgpu.commit_smem()
        written = out_own.at[pl.ds(0, gathered.shape[3])]
        plgpu.copy_smem_to_gmem(written, gathered.at[slot, head, turn])
        plgpu.copy_smem_to_gmem(sums_own, sums.at[slot, head, turn])
        plgpu.wait_smem_to_gmem(0)
