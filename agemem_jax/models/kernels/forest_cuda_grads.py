"""The gradients of attention along the paths of a forest on NVIDIA GPUs; see `forest_cuda.py`."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from agemem_jax.models.kernels import forest_plan, mosaic
from agemem_jax.models.kernels.forest import Tiling


def _query_grad_kernel(
    plan, query, keys, values, q_info, k_info, numbers, grad, q_grad,
    *, plan_own, q_own, grad_own, k_own, v_own, info_own, plan_there, q_there, k_there, v_there,
    k_free, v_free, tiling: Tiling, group: int,
):  # fmt: skip
    row, head, place = (lax.axis_index(name) for name in ("row", "head", "block"))
    block = query.shape[2] // mosaic.BLOCK - 1 - place
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
        q, out = q_own.at[part], grad_own.at[part]
        own = (row, head, pl.ds(base, mosaic.OWN))
        mosaic.fetch(((query.at[own], q), (grad.at[own], out)), q_there.at[part])
        infos = mosaic.as_rows(q_info, (row,), of_queries, base, mosaic.OWN)
        log_sum, delta = mosaic.as_rows(numbers, (row, head), range(2), base, mosaic.OWN)
        plgpu.barrier_wait(plan_there)
        plgpu.barrier_wait(q_there.at[part])

        def step(number, total, *, masked: bool):
            stage, shape = lax.rem(number, mosaic.STAGES), (mosaic.OWN, bk)
            k, v = k_own.at[stage], v_own.at[stage]
            plgpu.barrier_wait(k_there.at[stage])
            score, bent = mosaic.bend(tiling, mosaic.product(q, k.transpose((1, 0)), shape))
            seen = None
            if masked:
                index = plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=mosaic.TILE)
                index += plan_own[forest_plan.HEAD + number] * bk
                others = mosaic.as_columns(info_own.at[stage], of_keys)
                seen = mosaic.sees(tiling, infos, others, index, shape, 0)
            share = mosaic.shares(score, log_sum, seen, 0)
            plgpu.barrier_wait(v_there.at[stage])
            wanted = mosaic.product(out, v.transpose((1, 0)), shape)
            plgpu.barrier_arrive(v_free.at[stage])
            slope = mosaic.slopes(share, wanted, delta, bent, 0).astype(keys.dtype)
            total = mosaic.add_product(tiling, total, slope, k)
            plgpu.barrier_arrive(k_free.at[stage])
            return total

        whole, count = plan_own[0], plan_own[1]
        total = mosaic.zeros(mosaic.OWN, dim)
        total = lax.fori_loop(0, whole, functools.partial(step, masked=False), total)
        total = lax.fori_loop(whole, count, functools.partial(step, masked=True), total)
        q[...] = (total * tiling.scale).astype(q_grad.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q, q_grad.at[own])
        plgpu.wait_smem_to_gmem(0)


def _key_grad_kernel(
    plan, query, keys, values, q_info, k_info, numbers, grad, k_grad, v_grad,
    *, plan_own, k_own, v_own, q_own, grad_own, info_own, number_own, plan_there, k_there, q_there,
    grad_there, q_free, grad_free, tiling: Tiling, group: int,
):  # fmt: skip
    row, kv_head, block = (lax.axis_index(name) for name in ("row", "head", "block"))
    part, dim, bq = lax.axis_index("part"), query.shape[-1], tiling.queries
    of_queries, of_keys = mosaic.infos(tiling)

    @pl.when(part == 2)
    def _():
        plgpu.set_max_registers(40, action="decrease")
        plgpu.copy_gmem_to_smem(plan.at[row, block], plan_own, plan_there)
        plgpu.barrier_wait(plan_there)
        count = plan_own[1]

        @pl.loop(0, group * count)
        def _(step):
            stage, place = lax.rem(step, mosaic.STAGES), lax.rem(step, count)
            start = plan_own[forest_plan.HEAD + place] * bq
            head = kv_head * group + lax.div(step, count)
            queries = pl.ds(start, bq)

            @pl.when(step >= mosaic.STAGES)
            def _():
                plgpu.barrier_wait(q_free.at[stage])
                plgpu.barrier_wait(grad_free.at[stage])

            infos = ((q_info.at[row, i, queries], info_own.at[stage, i]) for i in of_queries)
            of_query = (query.at[row, head, queries], q_own.at[stage])
            mosaic.fetch((of_query, *infos), q_there.at[stage])
            sums = ((numbers.at[row, head, i, queries], number_own.at[stage, i]) for i in range(2))
            of_grad = (grad.at[row, head, queries], grad_own.at[stage])
            mosaic.fetch((of_grad, *sums), grad_there.at[stage])

    @pl.when(part < 2)
    def _():
        plgpu.set_max_registers(232, action="increase")
        base = block * mosaic.BLOCK + part * mosaic.OWN
        k, v, own = k_own.at[part], v_own.at[part], (row, kv_head, pl.ds(base, mosaic.OWN))
        mosaic.fetch(((keys.at[own], k), (values.at[own], v)), k_there.at[part])
        infos = mosaic.as_rows(k_info, (row,), of_keys, base, mosaic.OWN)
        plgpu.barrier_wait(plan_there)
        plgpu.barrier_wait(k_there.at[part])

        def step(number, carry, *, masked: bool):
            k_total, v_total = carry
            stage, shape = lax.rem(number, mosaic.STAGES), (mosaic.OWN, bq)
            q, out = q_own.at[stage], grad_own.at[stage]
            plgpu.barrier_wait(q_there.at[stage])
            score, bent = mosaic.bend(tiling, mosaic.product(k, q.transpose((1, 0)), shape))
            seen = None
            if masked:
                others = mosaic.as_columns(info_own.at[stage], of_queries)
                index = plgpu.broadcasted_iota(jnp.int32, shape, 0, layout=mosaic.TILE) + base
                seen = mosaic.sees(tiling, others, infos, index, shape, 1)
            plgpu.barrier_wait(grad_there.at[stage])
            log_sum, delta = mosaic.as_columns(number_own.at[stage], range(2))
            share = mosaic.shares(score, log_sum, seen, 1)
            wanted = mosaic.product(v, out.transpose((1, 0)), shape)
            v_total = mosaic.add_product(tiling, v_total, share.astype(grad.dtype), out)
            plgpu.barrier_arrive(grad_free.at[stage])
            slope = mosaic.slopes(share, wanted, delta, bent, 1).astype(query.dtype)
            k_total = mosaic.add_product(tiling, k_total, slope, q)
            plgpu.barrier_arrive(q_free.at[stage])
            return k_total, v_total

        whole, count = plan_own[0], plan_own[1]

        def of_head(member, carry):
            first = member * count
            unmasked, masked = (functools.partial(step, masked=each) for each in (False, True))
            carry = lax.fori_loop(first, first + whole, unmasked, carry)
            return lax.fori_loop(first + whole, first + count, masked, carry)

        carry = (mosaic.zeros(mosaic.OWN, dim), mosaic.zeros(mosaic.OWN, dim))
        k_total, v_total = lax.fori_loop(0, group, of_head, carry)
        k[...] = (k_total * tiling.scale).astype(k_grad.dtype)
        v[...] = v_total.astype(v_grad.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(k, k_grad.at[own])
        plgpu.copy_smem_to_gmem(v, v_grad.at[own])
        plgpu.wait_smem_to_gmem(0)


def backward(tiling: Tiling, saved, grad):
    """The gradients of `forest_cuda.attend`, from what its forward pass has saved."""
    query, keys, values, q_info, k_info, mixed, log_sum = saved
    rows, heads, tokens, dim = query.shape
    kv_heads, length = keys.shape[1:3]
    group, dtype, stages = heads // kv_heads, query.dtype, (mosaic.STAGES,)
    delta = jnp.sum(grad.astype(jnp.float32) * mixed.astype(jnp.float32), axis=-1)
    numbers = jnp.stack([log_sum, delta], axis=2)
    operands = (query, keys, values, q_info.swapaxes(1, 2), k_info, numbers, grad)
    tilings = mosaic.blocks(tiling, dim)

    own = tilings["queries"]
    plan, _ = forest_plan.plan(own, q_info, k_info)
    q_infos, k_infos = (len(each) for each in mosaic.infos(own))
    scratch = {
        "plan_own": plgpu.SMEM(plan.shape[-1:], jnp.int32),
        "q_own": mosaic.tiles((2, mosaic.OWN, dim), dtype),
        "grad_own": mosaic.tiles((2, mosaic.OWN, dim), dtype),
        "k_own": mosaic.tiles((*stages, own.keys, dim), dtype),
        "v_own": mosaic.tiles((*stages, own.keys, dim), dtype),
        "info_own": plgpu.SMEM((*stages, 2, own.keys), jnp.int32),
        "plan_there": plgpu.Barrier(),
        "q_there": plgpu.Barrier(num_barriers=2, num_arrivals=2),
        "k_there": plgpu.Barrier(num_barriers=mosaic.STAGES, num_arrivals=1 + k_infos),
        "v_there": plgpu.Barrier(num_barriers=mosaic.STAGES),
        "k_free": plgpu.Barrier(num_barriers=mosaic.STAGES, num_arrivals=2),
        "v_free": plgpu.Barrier(num_barriers=mosaic.STAGES, num_arrivals=2),
    }
    (q_grad,) = mosaic.call(
        _query_grad_kernel, own, (heads, tokens // mosaic.BLOCK, rows),
        [jax.ShapeDtypeStruct(query.shape, dtype)], scratch, group, plan, *operands,
    )  # fmt: skip

    own = tilings["keys"]
    _, plan = forest_plan.plan(own, q_info, k_info)
    scratch = {
        "plan_own": plgpu.SMEM(plan.shape[-1:], jnp.int32),
        "k_own": mosaic.tiles((2, mosaic.OWN, dim), dtype),
        "v_own": mosaic.tiles((2, mosaic.OWN, dim), dtype),
        "q_own": mosaic.tiles((*stages, own.queries, dim), dtype),
        "grad_own": mosaic.tiles((*stages, own.queries, dim), dtype),
        "info_own": plgpu.SMEM((*stages, 4, own.queries), jnp.int32),
        "number_own": plgpu.SMEM((*stages, 2, own.queries), jnp.float32),
        "plan_there": plgpu.Barrier(),
        "k_there": plgpu.Barrier(num_barriers=2, num_arrivals=2),
        "q_there": plgpu.Barrier(num_barriers=mosaic.STAGES, num_arrivals=1 + q_infos),
        "grad_there": plgpu.Barrier(num_barriers=mosaic.STAGES, num_arrivals=3),
        "q_free": plgpu.Barrier(num_barriers=mosaic.STAGES, num_arrivals=2),
        "grad_free": plgpu.Barrier(num_barriers=mosaic.STAGES, num_arrivals=2),
    }
    shapes = [jax.ShapeDtypeStruct(each.shape, dtype) for each in (keys, values)]
    k_grad, v_grad = mosaic.call(
        _key_grad_kernel, own, (kv_heads, length // mosaic.BLOCK, rows), shapes, scratch, group,
        plan, *operands,
    )  # fmt: skip
    return q_grad, k_grad, v_grad, None, None
