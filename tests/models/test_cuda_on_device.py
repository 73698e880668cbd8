"""The Mosaic kernels on an NVIDIA GPU, compiled, against plain attention in float32 there.

JAX_PLATFORMS=cuda,cpu python -m pytest tests/models/test_cuda_on_device.py
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import backends
from agemem_jax.models.attention import Packing, Scoring
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.rope import Rope
from experiments.benchmarks.accelerator import correctness, generation
from experiments.benchmarks.accelerator.sizes import FULL
from tests.models.forests import grow_forest


def _why_not() -> str:
    """What is missing to run compiled kernels here; empty where nothing is."""
    if jax.default_backend() != "gpu":
        return "JAX uses no NVIDIA GPU here, and interpreted kernels have tests of their own"
    capability = getattr(jax.devices()[0], "compute_capability", "9.0")
    if float(capability) < 9.0:
        return f"this GPU has compute capability {capability}; the kernels are for 9.0, the H100's"
    return ""


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "it runs")
CUDA, PLAIN = (backends.get(name) for name in ("cuda", "plain"))


@pytest.fixture(autouse=True)
def exactly():
    """Plain products are not in TF32; the kernels are told their precision by their dtypes."""
    with jax.default_matmul_precision("highest"):
        yield


def draw(*shape, seed=0):
    """Numbers that bfloat16 holds."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)


def assert_close(found, wanted, share):
    """Within a share of the largest value that is wanted."""
    wanted = np.asarray(wanted, np.float64)
    assert np.abs(wanted).max() > 0
    error = np.abs(np.asarray(found, np.float64) - wanted).max()
    assert error <= share * np.abs(wanted).max()


# Heads and tokens, tokens of a prefix that rows share, and what scores can have beside them.
PACKED = {
    "heads of 64": (14, 2, 64, 1000, 0, {}),
    "heads of 128, behind a prefix": (12, 2, 128, 640, 200, {}),
    "window and softcap": (4, 4, 64, 500, 0, {"window": 70, "softcap": 20.0}),
}


@pytest.mark.parametrize("case", PACKED.values(), ids=PACKED)
def test_packed_rows_and_their_gradients(case):
    heads, kv_heads, dim, tokens, ahead, change = case
    rng = np.random.default_rng(0)
    visible_to, positions = (jnp.asarray(np.stack([x, x])) for x in grow_forest(tokens, rng))
    uses_prefix = (visible_to > 0) & (ahead > 0)
    packing, positions = Packing(visible_to, uses_prefix), positions + ahead * uses_prefix
    scoring = Scoring(dim**-0.5, **change)
    weight = draw(2, tokens, heads, dim, seed=1)
    weight *= jnp.asarray(visible_to > 0, jnp.bfloat16)[..., None, None]  # padding counts nothing
    inputs = [draw(2, tokens, heads, dim)]
    inputs += [draw(2, kv_heads, tokens, dim, seed=seed) for seed in (2, 3)]
    inputs += [draw(1, kv_heads, ahead, dim, seed=seed) for seed in (4, 5)] if ahead else []

    def compute(backend, inputs):
        @jax.jit
        def total(query, keys, values, *prefix):
            if prefix and backend.transposes_keys:
                prefix = prefix[0].swapaxes(2, 3), prefix[1]
            mixed = backend.attend_packed(
                query, keys, values, positions, packing, prefix or None, scoring
            )
            mixed = mixed * weight.astype(mixed.dtype)
            return jnp.sum(mixed.astype(jnp.float32)), mixed

        grads, mixed = jax.grad(total, argnums=tuple(range(len(inputs))), has_aux=True)(*inputs)
        return mixed, *grads

    found = compute(CUDA, inputs)
    wanted = compute(PLAIN, [x.astype(jnp.float32) for x in inputs])
    for index, pair in enumerate(zip(found, wanted, strict=True)):
        assert_close(*pair, share=0.02 if index == 0 else 0.04)
    for once, again in zip(found, compute(CUDA, inputs), strict=True):
        np.testing.assert_array_equal(*(np.asarray(x, np.float32) for x in (once, again)))


SLOTS, LENGTH, LAYERS = 5, 640, 3


@pytest.mark.parametrize("tokens", [1, 128], ids=["a token", "a chunk of prefill"])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(14, 2, 64), (28, 4, 128)])
def test_attention_to_a_layer_of_a_cache(heads, kv_heads, dim, tokens):
    query = draw(SLOTS, tokens, heads, dim)
    keys, values = (draw(LAYERS, SLOTS, kv_heads, LENGTH, dim, seed=seed) for seed in (1, 2))
    starts = jnp.array([0, 5, 200, LENGTH - tokens, LENGTH])  # the last one is idle
    positions = starts[:, None] + jnp.arange(tokens)
    scoring, layer = Scoring(dim**-0.5), jnp.int32(1)
    found = jax.jit(CUDA.attend_layer, static_argnums=5)(
        query, (keys,), (values,), layer, positions, scoring
    )
    own = [x[1].astype(jnp.float32) for x in (keys, values)]
    wanted = jax.jit(PLAIN.attend_cache, static_argnums=4)(
        query.astype(jnp.float32), (own[0].swapaxes(2, 3),), (own[1],), positions, scoring
    )
    real = np.asarray(positions < LENGTH)
    assert_close(np.asarray(found, np.float32)[real], np.asarray(wanted)[real], share=0.02)
    assert np.all(np.asarray(found, np.float32)[~real] == 0)


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 2, 64), (4, 1, 128)])
def test_the_engine_takes_the_likeliest_tokens(heads, kv_heads, dim):
    config = DecoderConfig(
        vocab_size=1024, num_layers=3, width=256, num_heads=heads, num_kv_heads=kv_heads,
        head_dim=dim, ffn_width=512, rope=Rope(theta=1e6), max_positions=2048, qkv_bias=True,
        compute_dtype="bfloat16",
    )  # fmt: skip
    sizes = dataclasses.replace(FULL, prompt=192, new=64)
    weights = generation.random_weights(config)
    prompts = np.random.default_rng(0).integers(10, config.vocab_size, (3, sizes.prompt))
    found = correctness.continue_greedily(config, weights, sizes, prompts)
    sampled = np.array([each.token_ids for each in found])
    tokens = np.concatenate([prompts, sampled], axis=1)
    wanted, best = (
        each[:, sizes.prompt - 1 :] for each in correctness.score_plainly(config, weights, tokens)
    )
    np.testing.assert_allclose([each.log_probs for each in found], wanted, atol=0.05)
    np.testing.assert_allclose(wanted, best, atol=0.05)  # or tokens of nearly the same probability
