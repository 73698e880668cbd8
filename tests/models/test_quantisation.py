"""Int8 weights, and dropout in front of LoRA matrices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.models.quantisation import quantise, quantise_weights

DENSE = DecoderConfig(
    vocab_size=61, num_layers=2, width=32, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=48,
    qkv_bias=True,
)  # fmt: skip
EXPERTS = dataclasses.replace(
    DENSE, num_experts=4, experts_per_token=2, expert_width=16, tied_embeddings=False
)
TOKENS = np.random.default_rng(0).integers(1, 61, (2, 12)).astype(np.int32)


def logits(config, weights, dropout_key=None):
    positions = np.broadcast_to(np.arange(12, dtype=np.int32), TOKENS.shape)
    run = jax.jit(functools.partial(decoder.forward, config))
    hidden = run(weights, TOKENS, positions, dropout_key=dropout_key)
    return decoder.unembed(config, weights, hidden)


def test_no_entry_moves_by_more_than_half_a_step_of_its_channel():
    matrix = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32) * 10.0
    matrix[:, 3] = 0.0
    steps, scale = quantise(jnp.asarray(matrix), 0)
    assert steps.dtype == jnp.int8 and scale.shape == (7,)
    assert np.abs(np.asarray(steps)).max() == 127
    error = np.abs(np.asarray(steps, np.float32) * np.asarray(scale) - matrix)
    assert np.all(error <= np.asarray(scale) / 2 * (1 + 1e-5))
    assert np.all(np.asarray(steps)[:, 3] == 0)


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_int8_weights_compute_what_their_rounded_values_would(config):
    params = jax.tree.map(
        lambda x: x * 8 if x.ndim > 1 else x, decoder.init_params(config, jax.random.key(0))
    )
    rounded = quantise_weights(Weights(params))

    def restore(value, scales):
        if isinstance(value, dict):
            return {k: restore(v, scales.get(k, {})) for k, v in value.items()}
        if value.dtype != jnp.int8:
            return value
        # The scale lies along every axis but the one that products sum over.
        axis = next(a for a in range(value.ndim)
                    if value.shape[:a] + value.shape[a + 1 :] == scales.shape)  # fmt: skip
        if value.ndim == 2 and value.shape[0] == value.shape[1]:
            axis = 0  # square matrices are [input, output]
        return value.astype(jnp.float32) * jnp.expand_dims(scales, axis)

    expected = logits(config, Weights(restore(rounded.params, rounded.scales)))
    np.testing.assert_allclose(logits(config, rounded), expected, atol=2e-4)
    exact = logits(config, Weights(params))
    gap = np.abs(jax.nn.log_softmax(exact) - jax.nn.log_softmax(expected)).max()
    assert 0 < gap < 0.5


def test_matrices_shrink_and_routers_norms_and_biases_stay():
    params = decoder.init_params(EXPERTS, jax.random.key(0))
    rounded = quantise_weights(Weights(params))
    mlp = rounded.params["layer_0"]["mlp"]
    assert mlp["router"].dtype == jnp.float32 and mlp["down_proj"].dtype == jnp.int8
    attention = rounded.params["layer_0"]["attention"]["q_proj"]
    assert attention["kernel"].dtype == jnp.int8 and attention["bias"].dtype == jnp.float32
    assert rounded.params["final_norm"]["scale"].dtype == jnp.float32
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((rounded.params, rounded.scales)))
    assert size < 0.35 * sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def test_dropout_acts_on_lora_only_and_leaves_the_mean_alone():
    config = dataclasses.replace(DENSE, lora_rank=2, lora_dropout=0.5)
    params = decoder.init_params(config, jax.random.key(0))
    lora = decoder.init_lora(config, jax.random.key(1))
    keys = [jax.random.key(seed) for seed in range(3)]
    fresh = [logits(config, Weights(params, lora), key) for key in keys]
    np.testing.assert_array_equal(fresh[0], logits(DENSE, Weights(params)))  # B is zero

    lora = jax.tree.map(lambda x: 0.02 * jax.random.normal(jax.random.key(x.size), x.shape), lora)
    weights = Weights(params, lora)
    certain = logits(config, weights)
    first, second = logits(config, weights, keys[0]), logits(config, weights, keys[1])
    assert np.any(np.asarray(first) != np.asarray(second))
    np.testing.assert_array_equal(first, logits(config, weights, keys[0]))
    seeds = jax.random.split(jax.random.key(0), 200)
    drawn = np.asarray(jax.lax.map(lambda key: logits(config, weights, key), seeds))
    effect = np.asarray(certain) - np.asarray(logits(DENSE, Weights(params)))
    error = drawn.mean(0) - np.asarray(certain)
    assert np.linalg.norm(error) < 0.3 * np.linalg.norm(effect)
