"""Attention along the paths of a forest on NVIDIA GPUs of the Hopper generation, in Mosaic GPU.

A program computes 128 tokens of a head: two warpgroups 64 each, while a third one fetches what
they need, block by block, from a plan that lists only those blocks of which something is seen.
Blocks that are seen whole come first, and are not masked.

The backward pass computes the queries' gradients in one kernel and those of keys and values in
another, which both compute the scores again. Every sum has one writer and a fixed order, so
results are the same bit for bit whenever they are computed.

For bfloat16 and float16. Axis order: [row, head, token, head_dim].
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from agemem_jax.models.kernels import forest_cuda_grads, forest_plan, mosaic
from agemem_jax.models.kernels.forest import Tiling

BLOCK = mosaic.BLOCK  # rows and caches divide into it
HEAD_DIMS = (64, 128)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
    tiling: Tiling,
    query: Float[Array, "row head token head_dim"],
    keys: Float[Array, "row kv_head length head_dim"],
    values: Float[Array, "row kv_head length head_dim"],
    q_info: Int[Array, "row token 4"],
    k_info: Int[Array, "row 2 length"],
) -> Float[Array, "row head token head_dim"]:
    """See `forest_attention`; tokens and length must divide into blocks of `BLOCK`.

    Raises:
      ValueError: heads have a size that is not one of `HEAD_DIMS`.
    """
    return _forward(tiling, query, keys, values, q_info, k_info)[0]


def _forward_kernel(
    plan, query, keys, values, q_info, k_info, mixed, log_sum,
    *, plan_own, q_own, k_own, v_own, info_own, log_own, plan_there, q_there, k_there, v_there,
    k_free, v_free, tiling: Tiling, group: int,
):  # fmt: skip
    row, head, place = (lax.axis_index(name) for name in ("row", "head", "block"))
    block = query.shape[2] // mosaic.BLOCK - 1 - place  # the last ones see most, and begin first
    part, dim, bk = lax.axis_index("part"), query.shape[-1], tiling.keys
    of_queries, of_keys = mosaic.infos(tiling)

    @pl.when(part == 2)
    def _():
        plgpu.copy_gmem_to_smem(plan.at[row, block], plan_own, plan_there)
        plgpu.barrier_wait(plan_there)
        stages = mosaic.KeyStages(k_own, v_own, info_own, k_there, v_there, k_free, v_free)
        mosaic.feed(stages, plan_own, keys, values, k_info, row, lax.div(head, group), of_keys)

    @pl.when(part < 2)
    def _():
        plgpu.set_max_registers(232, action="increase")
        base = block * mosaic.BLOCK + part * mosaic.OWN
        q = q_own.at[part]
        plgpu.copy_gmem_to_smem(query.at[row, head, pl.ds(base, mosaic.OWN)], q, q_there.at[part])
        infos = mosaic.as_rows(q_info, (row,), of_queries, base, mosaic.OWN)
        plgpu.barrier_wait(plan_there)
        plgpu.barrier_wait(q_there.at[part])

        def step(number, carry, *, masked: bool):
            stage = lax.rem(number, mosaic.STAGES)
            plgpu.barrier_wait(k_there.at[stage])
            k = k_own.at[stage].transpose((1, 0))
            score, _ = mosaic.bend(tiling, mosaic.product(q, k, (mosaic.OWN, bk)))
            seen = None
            if masked:
                index = plgpu.broadcasted_iota(jnp.int32, score.shape, 1, layout=mosaic.TILE)
                index += plan_own[forest_plan.HEAD + number] * bk
                own = mosaic.as_columns(info_own.at[stage], of_keys)
                seen = mosaic.sees(tiling, infos, own, index, score.shape, 0)
            plgpu.barrier_arrive(k_free.at[stage])
            share, total, *numbers = mosaic.gather(score, seen, *carry)
            share = share.astype(values.dtype)
            plgpu.barrier_wait(v_there.at[stage])
            total = mosaic.add_product(tiling, total, share, v_own.at[stage])
            plgpu.barrier_arrive(v_free.at[stage])
            return total, *numbers

        carry = mosaic.nothing(mosaic.OWN, dim)
        whole, count = plan_own[0], plan_own[1]
        carry = lax.fori_loop(0, whole, functools.partial(step, masked=False), carry)
        carry = lax.fori_loop(whole, count, functools.partial(step, masked=True), carry)
        total, top, sum_ = carry
        safe = jnp.where(sum_ > 0, sum_, 1.0)
        q[...] = (total / lax.broadcast_in_dim(safe, total.shape, (0,))).astype(mixed.dtype)
        log_own[part] = jnp.where(sum_ > 0, top / mosaic.LOG2_E + jnp.log(safe), 0.0)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q, mixed.at[row, head, pl.ds(base, mosaic.OWN)])
        plgpu.copy_smem_to_gmem(log_own.at[part], log_sum.at[row, head, pl.ds(base, mosaic.OWN)])
        plgpu.wait_smem_to_gmem(0)


def _check(query):
    if query.shape[-1] not in HEAD_DIMS:
        raise ValueError(
            f"Heads of {query.shape[-1]} do not suit the kernels of GPUs, which take "
            f"{' or '.join(map(str, HEAD_DIMS))}; model.backend must be 'plain' for them."
        )


def _forward(tiling: Tiling, query, keys, values, q_info, k_info):
    _check(query)
    rows, heads, tokens, dim = query.shape
    tiling = mosaic.blocks(tiling, dim)["forward"]
    plan, _ = forest_plan.plan(tiling, q_info, k_info)
    dtype, stages, bk = query.dtype, (mosaic.STAGES,), tiling.keys
    k_infos = len(mosaic.infos(tiling)[1])
    scratch = {
        "plan_own": plgpu.SMEM(plan.shape[-1:], jnp.int32),
        "q_own": mosaic.tiles((2, mosaic.OWN, dim), dtype),
        "k_own": mosaic.tiles((*stages, bk, dim), dtype),
        "v_own": mosaic.tiles((*stages, bk, dim), dtype),
        "info_own": plgpu.SMEM((*stages, 2, bk), jnp.int32),
        "log_own": plgpu.SMEM((2, mosaic.OWN), jnp.float32),
        "plan_there": plgpu.Barrier(),
        "q_there": plgpu.Barrier(num_barriers=2),
        "k_there": plgpu.Barrier(num_barriers=mosaic.STAGES, num_arrivals=1 + k_infos),
        "v_there": plgpu.Barrier(num_barriers=mosaic.STAGES),
        "k_free": plgpu.Barrier(num_barriers=mosaic.STAGES, num_arrivals=2),
        "v_free": plgpu.Barrier(num_barriers=mosaic.STAGES, num_arrivals=2),
    }
    mixed, log_sum = mosaic.call(
        _forward_kernel, tiling, (heads, tokens // mosaic.BLOCK, rows),
        [
            jax.ShapeDtypeStruct(query.shape, dtype),
            jax.ShapeDtypeStruct(query.shape[:3], jnp.float32),
        ],
        scratch, heads // keys.shape[1], plan, query, keys, values, q_info.swapaxes(1, 2), k_info,
    )  # fmt: skip
    return mixed, (query, keys, values, q_info, k_info, mixed, log_sum)


attend.defvjp(_forward, forest_cuda_grads.backward)
