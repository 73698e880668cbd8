"""Attention along the paths of a forest on TPU, in blocks that stay in the chip's fast memory.

Each block of queries holds all heads that share a head of keys, and walks through the blocks of
keys that it needs; for gradients of keys, the other way round. Scores have keys on sublanes and
queries on lanes, so that what there is one number of for each query is a row of them.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from agemem_jax.models.kernels import forest_plan
from agemem_jax.models.kernels.forest import MASKED, Tiling, bend, mask_by_key

LANES = 128
# Numbers of a block of queries with all heads of a group: 1 MiB in float32, of which gradients
# hold seven, beside a few squares of scores, in the 16 MiB that a kernel is given.
MOST = 2048 * LANES


class Grid(NamedTuple):
    """Of a kernel. `blocks` have a list each of the blocks that they visit, in so many `steps`."""

    rows: int
    kv_heads: int
    blocks: int
    steps: int

    def list_at(self, row, block):
        """Where a block's list begins in all lists behind one another."""
        return (row * self.blocks + block) * (forest_plan.HEAD + self.steps)


def _product(left, right, over: tuple[int, int]):
    """In float32, summed over an axis of each."""
    axes = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)


def _visit(tiling: Tiling, grid: Grid, plan, q_info, k_info, k_is_visited: bool, compute):
    """Calls `compute` with what is seen of a needed pair of blocks: None where that is all."""
    row, block, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    start = grid.list_at(row, block)

    @pl.when(step < plan[start])
    def _():
        compute(None)

    @pl.when((step >= plan[start]) & (step < plan[start + 1]))
    def _():
        k_block = plan[start + forest_plan.HEAD + step] if k_is_visited else block
        compute(mask_by_key(tiling, q_info[0], k_info[0], k_block * tiling.keys))


def _each_head(query, compute):
    """Calls `compute` with the index of each head of a group."""
    jax.lax.fori_loop(0, query.shape[2], lambda head, _: compute(head), None)


def _forward_kernel(
    plan, query, keys, values, q_info, k_info, mixed, log_sum, top, total, sum_, *, tiling, grid
):
    step = pl.program_id(3)

    @pl.when(step == 0)
    def _():
        top[...] = jnp.full_like(top, MASKED)
        total[...] = jnp.zeros_like(total)
        sum_[...] = jnp.zeros_like(sum_)

    def compute(seen):
        turned = values[0, 0].T

        def of_head(head):
            score, _ = bend(tiling, _product(keys[0, 0], query[0, 0, head], (1, 1)))
            if seen is not None:
                score = jnp.where(seen, score, MASKED)
            highest = jnp.maximum(top[head], jnp.max(score, axis=0, keepdims=True))
            share = jnp.exp(score - highest)
            if seen is not None:
                share = jnp.where(seen, share, 0.0)
            shrink = jnp.exp(top[head] - highest)
            total[head] = shrink * total[head] + jnp.sum(share, axis=0, keepdims=True)
            sum_[head] = shrink * sum_[head] + _product(turned, share.astype(values.dtype), (1, 0))
            top[head] = highest

        _each_head(query, of_head)

    _visit(tiling, grid, plan, q_info, k_info, True, compute)

    @pl.when(step == grid.steps - 1)
    def _():
        def of_head(head):
            some = total[head] > 0
            safe = jnp.where(some, total[head], 1.0)
            mixed[0, 0, head] = (sum_[head] / safe).T.astype(mixed.dtype)
            log_sum[0, 0, head] = jnp.where(some, top[head] + jnp.log(safe), 0.0)

        _each_head(query, of_head)


def _slopes(tiling, seen, query, keys, values, log_sum, delta, grad):
    """Shares of one pair of blocks and a head, and the gradient of its scores before scaling."""
    score, bent = bend(tiling, _product(keys, query, (1, 1)))
    share = jnp.exp(score - log_sum)
    if seen is not None:
        share = jnp.where(seen, share, 0.0)
    slope = share * (_product(values, grad, (1, 1)) - delta)
    if bent is not None:
        slope *= 1.0 - bent * bent
    return share, slope * tiling.scale


def _query_grad_kernel(
    plan, query, keys, values, q_info, k_info, log_sum, delta, grad, out, sum_, *, tiling, grid
):
    step = pl.program_id(3)

    @pl.when(step == 0)
    def _():
        sum_[...] = jnp.zeros_like(sum_)

    def compute(seen):
        turned = keys[0, 0].T

        def of_head(head):
            own = (each[0, 0, head] for each in (log_sum, delta, grad))
            _, slope = _slopes(tiling, seen, query[0, 0, head], keys[0, 0], values[0, 0], *own)
            sum_[head] += _product(turned, slope.astype(keys.dtype), (1, 0))

        _each_head(query, of_head)

    _visit(tiling, grid, plan, q_info, k_info, True, compute)

    @pl.when(step == grid.steps - 1)
    def _():
        def of_head(head):
            out[0, 0, head] = sum_[head].T.astype(out.dtype)

        _each_head(query, of_head)


def _key_grad_kernel(
    plan, query, keys, values, q_info, k_info, log_sum, delta, grad,
    keys_out, values_out, keys_sum, values_sum, *, tiling, grid,
):  # fmt: skip
    step = pl.program_id(3)

    @pl.when(step == 0)
    def _():
        keys_sum[...] = jnp.zeros_like(keys_sum)
        values_sum[...] = jnp.zeros_like(values_sum)

    def compute(seen):
        def of_head(head):
            own = (each[0, 0, head] for each in (log_sum, delta, grad))
            share, slope = _slopes(tiling, seen, query[0, 0, head], keys[0, 0], values[0, 0], *own)
            keys_sum[...] += _product(slope.astype(query.dtype), query[0, 0, head], (1, 0))
            values_sum[...] += _product(share.astype(grad.dtype), grad[0, 0, head], (1, 0))

        _each_head(query, of_head)

    _visit(tiling, grid, plan, q_info, k_info, False, compute)

    @pl.when(step == grid.steps - 1)
    def _():
        keys_out[0, 0] = keys_sum[...].astype(keys_out.dtype)
        values_out[0, 0] = values_sum[...].astype(values_out.dtype)


def _call(kernel, tiling, lists, k_is_visited, names, operands, results, scratch, products):
    """One kernel. `names` tell of operands, `results` of outputs, which block of `_specs` they
    are given."""
    query, keys = operands[:2]
    rows, kv_heads, group, tokens, dim = query.shape
    blocks = (tokens // tiling.queries, keys.shape[2] // tiling.keys)
    grid = Grid(rows, kv_heads, *(blocks if k_is_visited else blocks[::-1]))
    specs = _specs(tiling, grid, group, dim, k_is_visited)
    names_out, shapes = zip(*results, strict=True)
    in_specs = [specs[name] for name in names]
    out_specs = [specs[name] for name in names_out]
    fetched = "key" if k_is_visited else "query"
    visited = [x for x, name in zip(operands, names, strict=True) if name == fetched]
    return pl.pallas_call(
        functools.partial(kernel, tiling=tiling, grid=grid),
        cost_estimate=_estimate(tiling, query, keys, [*operands, *shapes], visited, products),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1, grid=grid, in_specs=in_specs, out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=list(shapes),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        interpret=tiling.interpret,
    )(forest_plan.walks(lists, grid.steps).reshape(-1), *operands)  # fmt: skip


def _specs(tiling: Tiling, grid: Grid, group: int, dim: int, k_is_visited: bool):
    """Which block of an operand a step of the grid is given."""

    def at(shape, pick):
        def index(row, head, block, step, plan):
            visited = plan[grid.list_at(row, block) + forest_plan.HEAD + step]
            return pick(row, head, *((block, visited) if k_is_visited else (visited, block)))

        return pl.BlockSpec(shape, index)

    bq, bk = tiling.queries, tiling.keys
    return {
        "query": at((1, 1, group, bq, dim), lambda row, head, q, k: (row, head, 0, q, 0)),
        "number": at((1, 1, group, 1, bq), lambda row, head, q, k: (row, head, 0, 0, q)),
        "q_info": at((1, 4, bq), lambda row, head, q, k: (row, 0, q)),
        "key": at((1, 1, bk, dim), lambda row, head, q, k: (row, head, k, 0)),
        "k_info": at((1, 2, bk), lambda row, head, q, k: (row, 0, k)),
    }


def _estimate(tiling, query, keys, arrays, visited, products) -> pl.CostEstimate:
    """Of `products` matrix products, as if a row were one sequence behind the prefix.

    `arrays` are moved once; `visited`, of which a block is fetched for each pair of blocks,
    oftener.
    """
    rows, kv_heads, group, tokens, dim = query.shape
    length = keys.shape[2]
    ends = range(length - tokens + tiling.queries, length + 1, tiling.queries)
    window = tiling.window or length
    pairs = rows * kv_heads * sum(
        math.ceil(end / tiling.keys) - max(end - tiling.queries + 1 - window, 0) // tiling.keys
        for end in ends
    )  # fmt: skip
    once = sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)
    fetched = 0
    for x in visited:
        tokens_of_block = tiling.keys if x.ndim == 4 else group * tiling.queries
        # Of heads that do not fill tiles, whole tiles are fetched.
        block = tokens_of_block * -(-dim // LANES) * LANES * x.dtype.itemsize
        fetched += max(pairs * block - x.size * x.dtype.itemsize, 0)
    scores = pairs * group * tiling.queries * tiling.keys
    return pl.CostEstimate(
        flops=2 * products * scores * dim, transcendentals=scores, bytes_accessed=once + fetched
    )


def _suited(tiling: Tiling, query, keys) -> Tiling:
    """With blocks of queries halved until all heads of a group fit."""
    group, lanes = query.shape[1] // keys.shape[1], max(query.shape[3], LANES)
    queries = tiling.queries
    while group * queries * lanes > MOST and queries % (2 * LANES) == 0:
        queries //= 2
    return dataclasses.replace(tiling, queries=queries)


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


def _grouped(x: Float[Array, "row head token head_dim"], keys):
    return x.reshape(len(x), keys.shape[1], -1, *x.shape[2:])


def _attend_forward(tiling, query, keys, values, q_info, k_info):
    tiling = _suited(tiling, query, keys)
    lists, _ = forest_plan.plan(tiling, q_info, k_info)
    grouped = _grouped(query, keys)
    rows, kv_heads, group, tokens, dim = grouped.shape
    numbers = jax.ShapeDtypeStruct((rows, kv_heads, group, 1, tokens), jnp.float32)
    number = (group, 1, tiling.queries)
    mixed, log_sum = _call(
        _forward_kernel, tiling, lists, True, ("query", "key", "key", "q_info", "k_info"),
        (grouped, keys, values, q_info.swapaxes(1, 2), k_info),
        [("query", _like(grouped)), ("number", numbers)],
        [number, number, (group, dim, tiling.queries)], 2,
    )  # fmt: skip
    mixed = mixed.reshape(query.shape)
    return mixed, (query, keys, values, q_info, k_info, mixed, log_sum)


def _attend_backward(tiling, saved, grad):
    query, keys, values, q_info, k_info, mixed, log_sum = saved
    tiling = _suited(tiling, query, keys)
    lists, lists_of_keys = forest_plan.plan(tiling, q_info, k_info)
    delta = jnp.sum(grad.astype(jnp.float32) * mixed.astype(jnp.float32), axis=-1)
    grouped = _grouped(query, keys)
    group, dim = grouped.shape[2], grouped.shape[4]
    names = ("query", "key", "key", "q_info", "k_info", "number", "number", "query")
    operands = (
        grouped, keys, values, q_info.swapaxes(1, 2), k_info, log_sum,
        delta.reshape(log_sum.shape), _grouped(grad, keys),
    )  # fmt: skip
    (query_grad,) = _call(
        _query_grad_kernel, tiling, lists, True, names, operands, [("query", _like(grouped))],
        [(group, dim, tiling.queries)], 3,
    )  # fmt: skip
    keys_grad, values_grad = _call(
        _key_grad_kernel, tiling, lists_of_keys, False, names, operands,
        [("key", _like(keys)), ("key", _like(values))], [(tiling.keys, dim)] * 2, 4,
    )  # fmt: skip
    return query_grad.reshape(query.shape), keys_grad, values_grad, None, None


def _like(x) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


attend.defvjp(_attend_forward, _attend_backward)
