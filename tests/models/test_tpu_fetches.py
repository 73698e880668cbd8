"""What kernels of TPUs fetch: told from their grids and index maps, and counted."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from agemem_jax.models.kernels import decode_pallas, forest_pallas
from agemem_jax.models.kernels.forest import Tiling, needed
from tests.models.forests import grow_forest

TILING = Tiling(scale=0.3, queries=16, keys=8)
HEADS, KV_HEADS, DIM = 4, 2, 128


class Call(NamedTuple):
    """Of a kernel. `scalars` are those of its operands that index maps read."""

    spec: object
    scalars: tuple
    operands: tuple
    results: list
    estimate: pl.CostEstimate

    def walk(self, index: int) -> np.ndarray:
        """Which block of an operand each step of the grid asks for, [*grid, axis]."""
        places = np.indices(self.spec.grid)
        block = self.spec.in_specs[index].index_map(*places, *map(np.asarray, self.scalars))
        return np.stack(np.broadcast_arrays(places[0], *block)[1:], axis=-1)

    def fetches(self, index: int) -> int:
        """How often a step asks for another block than the one before."""
        blocks = self.walk(index)
        blocks = blocks.reshape(-1, blocks.shape[-1])
        return 1 + int(np.any(blocks[1:] != blocks[:-1], axis=1).sum())

    def bytes_moved(self) -> int:
        sizes = [math.prod(each.block_shape) for each in self.spec.in_specs]
        read = sum(
            self.fetches(i) * size * self.operands[i].dtype.itemsize for i, size in enumerate(sizes)
        )
        return read + sum(math.prod(x.shape) * x.dtype.itemsize for x in self.results)


@pytest.fixture
def calls(monkeypatch):
    """Kernels that would have run; their results are zeros."""
    made = []

    def recording(kernel, *, grid_spec, out_shape, cost_estimate, **options):
        def with_operands(*operands):
            scalars = operands[: grid_spec.num_scalar_prefetch]
            rest, results = operands[len(scalars) :], jax.tree.leaves(out_shape)
            made.append(Call(grid_spec, scalars, rest, results, cost_estimate))
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out_shape)

        return with_operands

    monkeypatch.setattr(pl, "pallas_call", recording)
    return made


def infos(visible_to):
    order = np.broadcast_to(np.arange(visible_to.shape[1]), visible_to.shape)
    q_info = np.stack([0 * order, order, order, order], axis=-1)
    q_info[visible_to == 0] = -1  # padding
    k_info = np.stack([visible_to, order], axis=1)
    return jnp.asarray(q_info, jnp.int32), jnp.asarray(k_info, jnp.int32)


def run_forward_and_backward(visible_to, tiling=TILING):
    rows, tokens = visible_to.shape
    query, own = (jnp.ones((rows, heads, tokens, DIM)) for heads in (HEADS, KV_HEADS))
    _, saved = forest_pallas.attend.fwd(tiling, query, own, own, *infos(visible_to))
    forest_pallas.attend.bwd(tiling, saved, query)


QUERY, KEYS = 0, 1  # operands
WALKS = [(0, KEYS), (1, KEYS), (2, QUERY)]  # forward, gradients of queries, of keys


def test_needed_blocks_are_fetched_and_no_others(calls):
    forest, _ = grow_forest(128, np.random.default_rng(3))
    half = np.where(np.arange(128) < 64, 64, 0)  # and padding, in blocks of its own
    visible_to = np.stack([forest, half, np.full(128, 128)])
    run_forward_and_backward(visible_to)
    need = np.asarray(needed(TILING, *infos(visible_to))).astype(bool)
    assert need.sum() < 0.5 * need.size and not need.any(axis=2).all()
    for call, operand in WALKS:
        lists = need if operand == KEYS else need.swapaxes(1, 2)
        axis = 2 if operand == KEYS else 3  # of an operand's blocks
        walk = calls[call].walk(operand)
        for row, head, block in np.ndindex(*walk.shape[:3]):
            if lists[row, block].any():
                assert np.all(walk[row, head, block, :, :2] == [row, head])
                asked = np.unique(walk[row, head, block, :, axis])
                np.testing.assert_array_equal(asked, np.flatnonzero(lists[row, block]))
        # All heads of a group share a fetch. It may serve the next list as well.
        assert 0.8 * KV_HEADS * need.sum() < calls[call].fetches(operand) <= KV_HEADS * need.sum()


@pytest.mark.parametrize("window", [0, 20])
def test_estimates_say_what_one_sequence_moves(calls, window):
    tiling = dataclasses.replace(TILING, window=window)
    run_forward_and_backward(np.full((3, 128), 128), tiling)
    assert len(calls) == 3
    for call in calls:
        assert call.estimate.bytes_accessed == pytest.approx(call.bytes_moved(), rel=0.1)


def test_blocks_of_queries_shrink_until_the_heads_of_a_group_fit(calls):
    tiling = Tiling(scale=0.3, queries=256, keys=128)
    query, own = (jnp.ones((1, heads, 256, 8)) for heads in (16, 1))
    of_tokens = infos(np.full((1, 256), 256))
    jax.eval_shape(lambda: forest_pallas.attend(tiling, query, own, own, *of_tokens))
    assert calls[0].spec.in_specs[QUERY].block_shape == (1, 1, 16, 128, 8)


@pytest.mark.parametrize("window", [0, 10])
def test_a_cache_is_fetched_as_far_as_it_is_filled(calls, monkeypatch, window):
    monkeypatch.setattr(decode_pallas, "MOST", 2 * 8 * DIM * 4)  # two heads at once, of four
    length, positions = 32, np.array([32, 0, 32, 8, 31, 32])  # 32 is idle
    cache = jnp.ones((len(positions), 4, length, DIM))
    tiling = Tiling(scale=0.3, window=window, keys=8)
    query = jnp.ones((len(positions), 8, DIM))
    decode_pallas.attend(query, cache, cache, jnp.asarray(positions), tiling)
    first = np.maximum(positions - window + 1, 0) // 8 * (window > 0)
    filled = (positions // 8 + 1 - first)[positions < length]
    assert calls[0].spec.in_specs[KEYS].block_shape == (1, 2, 8, DIM)
    # Two parties of heads; before the first slot that runs, one block is fetched for nothing.
    assert calls[0].fetches(KEYS) == 2 * filled.sum() + 1
