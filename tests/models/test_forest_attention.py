"""Attention in blocks, by XLA and by kernels of CPUs and TPUs, against whole masked squares."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models.attention import Packing
from agemem_jax.models.kernels import compiled, forest_blocks, forest_cpu, forest_pallas
from agemem_jax.models.kernels.forest import Tiling, needed
from agemem_jax.models.kernels.forest_attention import forest_attention

ROWS, HEADS, KV_HEADS, TOKENS, DIM, PREFIX = 2, 4, 2, 21, 16, 5
TILING = Tiling(scale=0.35, queries=8, keys=8)
# Two trees: 3 shared tokens with branches of 5 and 4, and 7 tokens alone; 2 of padding.
VISIBLE = [12] * 3 + [8] * 5 + [12] * 4 + [19] * 7 + [0] * 2
PLACES = [0, 1, 2, 3, 4, 5, 6, 7, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 0, 0]
REAL = 19


def make(prefix: int, seed: int = 0):
    keys = iter(jax.random.split(jax.random.key(seed), 6))

    def normal(*shape):
        return jax.random.normal(next(keys), shape)

    query = 2 * normal(ROWS, TOKENS, HEADS, DIM)
    own = [normal(ROWS, KV_HEADS, TOKENS, DIM) for _ in range(2)]
    shared = [normal(1, KV_HEADS, prefix, DIM) for _ in range(2)]
    visible_to = jnp.asarray([VISIBLE, [TOKENS] * TOKENS], jnp.int32)
    uses = jnp.asarray([np.arange(TOKENS) < 12, np.ones(TOKENS, bool)])
    places = jnp.asarray([PLACES, np.arange(TOKENS)], jnp.int32)
    return (
        query,
        own,
        shared,
        Packing(visible_to, uses & (prefix > 0)),
        (places + prefix * (uses & (prefix > 0))),
    )


def squares(query, own, shared, packing, positions, tiling):
    """Every query against every key, by the definition."""
    prefix, order = shared[0].shape[2], jnp.arange(TOKENS)
    keys, values = (
        jnp.concatenate([jnp.repeat(s, ROWS, 0), o], 2).repeat(HEADS // KV_HEADS, 1)
        for s, o in zip(shared, own, strict=True)
    )
    score = jnp.einsum("rthd,rhld->rhtl", query, keys) * tiling.scale
    if tiling.softcap:
        score = tiling.softcap * jnp.tanh(score / tiling.softcap)
    seen = (order <= order[:, None]) & (order[:, None] < packing.visible_to[:, None])
    of_prefix = jnp.repeat(packing.uses_prefix[:, :, None], prefix, 2)
    seen = jnp.concatenate([of_prefix, seen], 2)
    if tiling.window:
        places = jnp.broadcast_to(jnp.arange(prefix), (ROWS, prefix))
        places = jnp.concatenate([places, positions], 1)
        seen &= positions[:, :, None] - places[:, None] < tiling.window
    share = jax.nn.softmax(jnp.where(seen[:, None], score, -1e30), axis=-1)
    return jnp.einsum("rhtl,rhld->rthd", share, values)


def in_blocks(attend, query, own, shared, packing, positions, tiling):
    keys, values = (
        jnp.concatenate([jnp.broadcast_to(s, (ROWS, *s.shape[1:])), o], axis=2)
        for s, o in zip(shared, own, strict=True)
    )
    mixed = forest_attention(
        attend, tiling, query.swapaxes(1, 2), keys, values, positions, packing.visible_to,
        packing.uses_prefix,
    )  # fmt: skip
    return mixed.swapaxes(1, 2)


IMPLEMENTATIONS = {
    "plain": (forest_blocks.attend, False),
    "cpu": (forest_cpu.attend, False),
    "tpu": (forest_pallas.attend, True),
}
CHANGES = {"as it is": {}, "softcap": {"softcap": 1.5}, "window": {"window": 4}}
CASES = [(name, each) for each in ("plain", "tpu") for name in CHANGES]
needs_compiler = pytest.mark.skipif(
    not compiled.available(), reason="This machine has no C++ compiler."
)
CASES += [pytest.param(name, "cpu", marks=needs_compiler) for name in CHANGES]
# 42 blocks of queries: by XLA they walk in four parties, of which the last one is padded.
CHANGES["four parties"] = {"queries": 1, "keys": 4}
CASES.append(("four parties", "plain"))


@pytest.mark.parametrize("prefix", [0, PREFIX])
@pytest.mark.parametrize(("change", "implementation"), CASES)
def test_values_and_gradients_equal_those_of_whole_squares(prefix, change, implementation):
    attend, interpret = IMPLEMENTATIONS[implementation]
    tiling = dataclasses.replace(TILING, interpret=interpret, **CHANGES[change])
    if implementation == "cpu":
        tiling = dataclasses.replace(tiling, queries=forest_cpu.BLOCK, keys=forest_cpu.BLOCK)
    query, own, shared, packing, positions = make(prefix)
    # Padding counts for nothing: what it attends to is not defined.
    weight = jax.random.normal(jax.random.key(9), (ROWS, TOKENS, HEADS, DIM))
    weight *= (packing.visible_to > 0)[..., None, None]

    def loss(function):
        def run(query, own, shared):
            mixed = function(query, own, shared, packing, positions, tiling)
            return jnp.sum(mixed * weight), mixed

        return jax.jit(jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True))

    (_, wanted), wanted_grads = loss(squares)(query, own, shared)
    (_, found), found_grads = loss(functools.partial(in_blocks, attend))(query, own, shared)
    real = np.asarray(packing.visible_to > 0)
    np.testing.assert_allclose(np.asarray(found)[real], np.asarray(wanted)[real], atol=2e-6)
    for ours, theirs in zip(
        jax.tree.leaves(found_grads), jax.tree.leaves(wanted_grads), strict=True
    ):
        assert np.all(np.isfinite(ours))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("window", "expected"), [
    (0, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]),
    (1, np.eye(4)),
])  # fmt: skip
def test_blocks_that_no_query_sees_are_skipped(window, expected):
    visible_to = np.array([[16] * 16 + [32] * 16], np.int32)  # two sequences of two blocks each
    order = np.arange(32)
    q_info = np.stack([np.zeros(32), order, order, order % 16], -1)[None].astype(np.int32)
    k_info = np.stack([visible_to[0], order % 16])[None].astype(np.int32)
    tiling = dataclasses.replace(TILING, window=window)
    found = np.asarray(needed(tiling, jnp.asarray(q_info), jnp.asarray(k_info)))[0]
    np.testing.assert_array_equal(found, expected)
