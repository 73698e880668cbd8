"""Attention along the paths of a forest on TPU, in blocks that stay in the chip's fast memory.

The grid runs over blocks of queries and of keys; a pair that nothing is seen of is skipped.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from agemem_jax.models.kernels.forest import MASKED, Tiling, bend, mask, needed


def _scores(tiling: Tiling, query, keys, seen):
    """Masked scores in float32, and the softcap's tanh where there is one."""
    products = jax.lax.dot_general(
        query, keys, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    score, bent = bend(tiling, products)
    return jnp.where(seen, score, MASKED), bent


def _forward_kernel(
    needs, query, keys, values, q_info, k_info, mixed, log_sum, top, total, sum_, *, tiling
):
    row, q_block, k_block = pl.program_id(0), pl.program_id(2), pl.program_id(3)

    @pl.when(k_block == 0)
    def _():
        top[...] = jnp.full_like(top, MASKED)
        total[...] = jnp.zeros_like(total)
        sum_[...] = jnp.zeros_like(sum_)

    @pl.when(needs[row, q_block, k_block] > 0)
    def _():
        seen = mask(tiling, q_info[0], k_info[0], k_block * tiling.keys)
        score, _ = _scores(tiling, query[0, 0], keys[0, 0], seen)
        highest = jnp.maximum(top[...], jnp.max(score, axis=1, keepdims=True))
        share = jnp.where(seen, jnp.exp(score - highest), 0.0)
        shrink = jnp.exp(top[...] - highest)
        total[...] = shrink * total[...] + jnp.sum(share, axis=1, keepdims=True)
        sum_[...] = shrink * sum_[...] + jax.lax.dot_general(
            share.astype(values.dtype), values[0, 0], (((1,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        top[...] = highest

    @pl.when(k_block == pl.num_programs(3) - 1)
    def _():
        safe = jnp.where(total[...] > 0, total[...], 1.0)
        mixed[0, 0] = (sum_[...] / safe).astype(mixed.dtype)
        log_sum[0, 0] = jnp.where(total[...] > 0, top[...] + jnp.log(safe), 0.0)


def _backward_block(tiling, k_block, query, keys, values, q_info, k_info, log_sum, delta, grad):
    """Shares of one block, and the gradient of its scores before scaling."""
    seen = mask(tiling, q_info[0], k_info[0], k_block * tiling.keys)
    score, bent = _scores(tiling, query[0, 0], keys[0, 0], seen)
    share = jnp.where(seen, jnp.exp(score - log_sum[0, 0]), 0.0)
    wanted = jax.lax.dot_general(
        grad[0, 0], values[0, 0], (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    slope = share * (wanted - delta[0, 0])
    if bent is not None:
        slope *= 1.0 - bent * bent
    return share, slope * tiling.scale


def _query_grad_kernel(
    needs, query, keys, values, q_info, k_info, log_sum, delta, grad, out, sum_, *, tiling
):
    row, q_block, k_block = pl.program_id(0), pl.program_id(2), pl.program_id(3)

    @pl.when(k_block == 0)
    def _():
        sum_[...] = jnp.zeros_like(sum_)

    @pl.when(needs[row, q_block, k_block] > 0)
    def _():
        _, slope = _backward_block(
            tiling, k_block, query, keys, values, q_info, k_info, log_sum, delta, grad
        )
        sum_[...] += jax.lax.dot_general(
            slope.astype(keys.dtype), keys[0, 0], (((1,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )  # fmt: skip

    @pl.when(k_block == pl.num_programs(3) - 1)
    def _():
        out[0, 0] = sum_[...].astype(out.dtype)


def _key_grad_kernel(
    needs, query, keys, values, q_info, k_info, log_sum, delta, grad,
    keys_out, values_out, keys_sum, values_sum, *, tiling, group,
):  # fmt: skip
    # The last axis of the grid runs over the query heads of a group, and their blocks.
    row, k_block, inner = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    q_block = jax.lax.div(inner, group)

    @pl.when(inner == 0)
    def _():
        keys_sum[...] = jnp.zeros_like(keys_sum)
        values_sum[...] = jnp.zeros_like(values_sum)

    @pl.when(needs[row, q_block, k_block] > 0)
    def _():
        share, slope = _backward_block(
            tiling, k_block, query, keys, values, q_info, k_info, log_sum, delta, grad
        )
        over_queries = (((0,), (0,)), ((), ()))
        keys_sum[...] += jax.lax.dot_general(
            slope.astype(query.dtype), query[0, 0], over_queries,
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        values_sum[...] += jax.lax.dot_general(
            share.astype(grad.dtype), grad[0, 0], over_queries,
            preferred_element_type=jnp.float32,
        )  # fmt: skip

    @pl.when(inner == pl.num_programs(3) - 1)
    def _():
        keys_out[0, 0] = keys_sum[...].astype(keys_out.dtype)
        values_out[0, 0] = values_sum[...].astype(values_out.dtype)


def _call(kernel, tiling, grid, in_specs, out_specs, out_shape, scratch, operands, products):
    return pl.pallas_call(
        kernel,
        cost_estimate=_estimate(tiling, grid, operands, out_shape, products),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=in_specs,
            out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        interpret=tiling.interpret,
    )(*operands)


def _estimate(tiling, grid, operands, out_shape, products) -> pl.CostEstimate:
    """Of `products` matrix products, as if a row were one sequence behind the prefix.

    Every step fetches the blocks of one side, whether or not they are needed.
    """
    steps, query, keys = math.prod(grid), *operands[1:3]
    length, tokens = keys.shape[2], query.shape[2]
    seen = (length - tokens / 2) / length
    pairs = int(seen * steps * tiling.queries * tiling.keys)
    each = max(tiling.queries, tiling.keys) * query.shape[-1] * query.dtype.itemsize
    others = sum(x.size * x.dtype.itemsize for x in (query, *jax.tree.leaves(out_shape)))
    return pl.CostEstimate(
        flops=2 * products * pairs * query.shape[-1],
        transcendentals=pairs,
        bytes_accessed=2 * steps * each + others,
    )


def _specs(tiling: Tiling, dim: int, group: int, place):
    """Block specifications; `place(*grid indices)` gives (row, head, q_block, k_block)."""

    def at(shape, pick):
        return pl.BlockSpec(shape, lambda *grid: pick(*place(*grid[:4])))

    bq, bk = tiling.queries, tiling.keys
    return {
        "query": at((1, 1, bq, dim), lambda row, head, q, k: (row, head, q, 0)),
        "key": at((1, 1, bk, dim), lambda row, head, q, k: (row, jax.lax.div(head, group), k, 0)),
        "q_info": at((1, bq, 4), lambda row, head, q, k: (row, q, 0)),
        "k_info": at((1, 2, bk), lambda row, head, q, k: (row, 0, k)),
        "column": at((1, 1, bq, 1), lambda row, head, q, k: (row, head, q, 0)),
    }


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
    return _attend_forward(tiling, query, keys, values, q_info, k_info)[0]


def _attend_forward(tiling, query, keys, values, q_info, k_info):
    rows, heads, tokens, dim = query.shape
    group = heads // keys.shape[1]
    spec = _specs(tiling, dim, group, lambda row, head, q, k: (row, head, q, k))
    grid = (rows, heads, tokens // tiling.queries, keys.shape[2] // tiling.keys)
    needs = needed(tiling, q_info, k_info)
    column = jax.ShapeDtypeStruct((rows, heads, tokens, 1), jnp.float32)
    mixed, log_sum = _call(
        functools.partial(_forward_kernel, tiling=tiling), tiling, grid,
        [spec["query"], spec["key"], spec["key"], spec["q_info"], spec["k_info"]],
        [spec["query"], spec["column"]],
        [jax.ShapeDtypeStruct(query.shape, query.dtype), column],
        [(tiling.queries, 1), (tiling.queries, 1), (tiling.queries, dim)],
        (needs, query, keys, values, q_info, k_info), 2,
    )  # fmt: skip
    return mixed, (query, keys, values, q_info, k_info, mixed, log_sum)


def _attend_backward(tiling, saved, grad):
    query, keys, values, q_info, k_info, mixed, log_sum = saved
    rows, heads, tokens, dim = query.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    q_blocks, k_blocks = tokens // tiling.queries, keys.shape[2] // tiling.keys
    needs = needed(tiling, q_info, k_info)
    product = grad.astype(jnp.float32) * mixed.astype(jnp.float32)
    delta = jnp.sum(product, axis=-1, keepdims=True)
    names = ("query", "key", "key", "q_info", "k_info", "column", "column", "query")
    operands = (needs, query, keys, values, q_info, k_info, log_sum, delta, grad)

    spec = _specs(tiling, dim, group, lambda row, head, q, k: (row, head, q, k))
    query_grad = _call(
        functools.partial(_query_grad_kernel, tiling=tiling), tiling,
        (rows, heads, q_blocks, k_blocks), [spec[name] for name in names], spec["query"],
        jax.ShapeDtypeStruct(query.shape, query.dtype), [(tiling.queries, dim)], operands, 3,
    )  # fmt: skip

    def place(row, kv_head, k, inner):
        # Not // and %: rounding towards minus infinity asks for the chip that runs the host.
        return row, kv_head * group + jax.lax.rem(inner, group), jax.lax.div(inner, group), k

    spec = _specs(tiling, dim, group, place)
    keys_grad, values_grad = _call(
        functools.partial(_key_grad_kernel, tiling=tiling, group=group), tiling,
        (rows, kv_heads, k_blocks, group * q_blocks), [spec[name] for name in names],
        [spec["key"], spec["key"]],
        [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (keys, values)],
        [(tiling.keys, dim), (tiling.keys, dim)], operands, 4,
    )  # fmt: skip
    return query_grad, keys_grad, values_grad, None, None


attend.defvjp(_attend_forward, _attend_backward)
