"""What the Mosaic GPU kernels of attention share: tiles, products, masks and copies.

A tile is what a warpgroup holds of a matrix, in its registers; numbers of its rows or columns lie
beside it. Scores are in base 2 here: exponentials of it are what a GPU computes.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from agemem_jax.models.kernels import forest_plan
from agemem_jax.models.kernels.forest import MASKED, Tiling

BLOCK = 128  # tokens of a program
OWN = BLOCK // 2  # of them, those of a warpgroup
STAGES = 2  # blocks that are fetched ahead
LOG2_E = math.log2(math.e)
TILE = plgpu.Layout.WGMMA
BY_ROW, BY_COLUMN = TILE.reduce(1), TILE.reduce(0)  # one number for each row, or column, of a tile


def blocks(tiling: Tiling, dim: int) -> dict[str, Tiling]:
    """Tokens of the blocks of each kernel, as far as registers reach."""
    other = 128 if dim == 64 else 64

    def of(queries, keys):
        return dataclasses.replace(tiling, queries=queries, keys=keys)

    return {"forward": of(BLOCK, 128), "queries": of(BLOCK, other), "keys": of(other, BLOCK)}


def infos(tiling: Tiling) -> tuple[range, range]:
    """Which rows of the queries' and of the keys' infos are read."""
    return (range(4), range(2)) if tiling.window else (range(3), range(1))


def sees(tiling: Tiling, queries, keys, index, shape, axis: int):
    """The mask of `forest.mask`; queries lie along `axis` of `shape`, keys along the other."""

    def spread(x, along):
        return lax.broadcast_in_dim(x, shape, (along,))

    first, last, order, *position = (spread(x, axis) for x in queries)
    seen_until, *key_position = (spread(x, 1 - axis) for x in keys)
    seen = (index >= first) & (index <= last) & (order < seen_until)
    if tiling.window:
        seen &= position[0] - key_position[0] < tiling.window
    return seen


def bend(tiling: Tiling, products):
    """Scores from products, times log2(e), and the softcap's tanh where there is one."""
    if not tiling.softcap:
        return products * (tiling.scale * LOG2_E), None
    bent = jnp.tanh(products * (tiling.scale / tiling.softcap))
    return bent * (tiling.softcap * LOG2_E), bent


def product(left, right, shape):
    """`left` times `right`, which lie in shared memory, as a tile in registers."""

    def compute(tile):
        plgpu.wgmma(tile, left, right)
        return tile[...]

    return pl.run_scoped(compute, plgpu.ACC(shape, jnp.float32))


def add_product(tiling: Tiling, total, left, right):
    """`total` plus `left`, in registers, times `right`, in shared memory."""
    if tiling.interpret:  # Pallas' interpreter knows neither
        return total + jnp.dot(left, right[...], preferred_element_type=jnp.float32)

    def compute(tile):
        plgpu.wgmma(tile, left, right)

    return pl.run_state(compute)(plgpu.ACC.init(total))


def zeros(*shape):
    """A tile, or a number for each of its rows."""
    return plgpu.layout_cast(jnp.zeros(shape, jnp.float32), TILE if len(shape) == 2 else BY_ROW)


def tiles(shape, dtype):
    """Shared memory in the order in which tensor cores read it."""
    transforms = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def fetch(copies, barrier):
    """Starts copies from global to shared memory, of (source, target), that arrive at `barrier`."""
    for source, target in copies:
        plgpu.copy_gmem_to_smem(source, target, barrier)


class KeyStages(NamedTuple):
    """Where blocks of keys and values are fetched to, each stage with its barriers.

    Attributes:
      k, v, infos: shared memory, by stage.
      k_there, v_there: what is fetched has arrived; keys with their infos.
      k_free, v_free: all who read it are done.
    """

    k: Any
    v: Any
    infos: Any
    k_there: Any
    v_there: Any
    k_free: Any
    v_free: Any


def feed(stages: KeyStages, plan, keys, values, k_info, row, kv_head, of_keys: range):
    """What the third warpgroup does: fetches the blocks of `plan`, as stages become free.

    Args:
      stages: where to.
      plan: of the block of queries, in shared memory; see `forest_plan`.
      keys, values, k_info: in global memory.
      row, kv_head: of the program.
      of_keys: which rows of `k_info` are read.
    """
    plgpu.set_max_registers(40, action="decrease")
    size = stages.k.shape[1]

    @pl.loop(0, plan[1])
    def _(step):
        stage, start = lax.rem(step, STAGES), plan[forest_plan.HEAD + step] * size
        at = (row, kv_head, pl.ds(start, size))

        @pl.when(step >= STAGES)
        def _():
            plgpu.barrier_wait(stages.k_free.at[stage])

        infos = (
            (k_info.at[row, i, pl.ds(start, size)], stages.infos.at[stage, i]) for i in of_keys
        )
        fetch(((keys.at[at], stages.k.at[stage]), *infos), stages.k_there.at[stage])

        @pl.when(step >= STAGES)
        def _():
            plgpu.barrier_wait(stages.v_free.at[stage])

        fetch(((values.at[at], stages.v.at[stage]),), stages.v_there.at[stage])


def as_rows(ref, index, places, base, size):
    """Numbers of `size` tokens from global memory, one for each row of a tile."""
    return [
        plgpu.load(ref.at[(*index, i, pl.ds(base, size))], layout=BY_ROW, optimized=False)
        for i in places
    ]


def as_columns(ref, places):
    """Numbers in shared memory, one for each column of a tile."""
    return [plgpu.load(ref.at[i], layout=BY_COLUMN) for i in places]


def nothing(rows: int, dim: int):
    """What `gather` begins with: a tile of sums, the highest scores, and the sums of shares."""
    top = plgpu.layout_cast(jnp.full((rows,), MASKED, jnp.float32), BY_ROW)
    return zeros(rows, dim), top, zeros(rows)


def gather(score, seen, total, top, sum_):
    """One step of a softmax that runs over blocks of keys.

    Args:
      score: of the block, in base 2.
      seen: which of them count; None is all.
      total, top, sum_: see `nothing`.

    Returns:
      The block's shares, which its values are still to be multiplied with, and what was gathered,
      in proportion to the highest score so far.
    """
    if seen is not None:
        score = jnp.where(seen, score, MASKED)
    highest = jnp.maximum(top, score.max(axis=1))
    share = jnp.exp2(score - lax.broadcast_in_dim(highest, score.shape, (0,)))
    if seen is not None:  # where nothing was seen yet, the highest score is a masked one
        share = jnp.where(seen, share, 0.0)
    shrink = jnp.exp2(top - highest)
    total = total * lax.broadcast_in_dim(shrink, total.shape, (0,))
    return share, total, highest, sum_ * shrink + share.sum(axis=1)


def shares(score, log_sum, seen, axis):
    """exp(score - log_sum), where seen; `score` counts in base 2."""
    log_sum = lax.broadcast_in_dim(log_sum * LOG2_E, score.shape, (axis,))
    share = jnp.exp2(score - log_sum)
    return share if seen is None else jnp.where(seen, share, 0.0)


def slopes(share, wanted, delta, bent, axis):
    """Gradients of scores before their scale."""
    slope = share * (wanted - lax.broadcast_in_dim(delta, share.shape, (axis,)))
    return slope if bent is None else slope * (1.0 - bent * bent)


def interpreter(tiling: Tiling) -> plgpu.InterpretGPUParams | None:
    """Pallas' interpreter, or None.

    It looks for no races: it takes every read of shared memory before a later copy into the same
    place for one, unless a fence stands between them that GPUs do not need.
    """
    return plgpu.InterpretGPUParams() if tiling.interpret else None


def call(kernel, tiling: Tiling, grid, out_type, scratch, group: int, *operands):
    """Runs a kernel of two warpgroups that compute and one that fetches.

    Args:
      kernel: takes `tiling` and `group`, the query heads of a head of keys.
      tiling: static settings.
      grid: heads, blocks, rows.
      out_type: shapes of the outputs.
      scratch: shared memory and barriers by name.
      group: see `kernel`.
      operands: of the kernel.
    """
    return plgpu.kernel(
        functools.partial(kernel, tiling=tiling, group=group),
        out_type=out_type,
        scratch_types=scratch,
        grid=grid,
        grid_names=("head", "block", "row"),
        num_threads=3,
        thread_name="part",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=interpreter(tiling),
    )(*operands)
