"""Weights ordered for CPUs compute what the weights they were made from do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.models.stacking import stack
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import EngineConfig, GenerationRequest

DENSE = DecoderConfig(
    vocab_size=61, num_layers=2, width=32, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=48,
    qkv_bias=True,
)  # fmt: skip
VARIANTS = {
    "dense": DENSE,
    "norms": dataclasses.replace(DENSE, qkv_bias=False, qk_norm=True, tied_embeddings=False),
    "lora": dataclasses.replace(DENSE, lora_rank=2),
    "experts": dataclasses.replace(
        DENSE, num_experts=4, experts_per_token=2, expert_width=16, dense_layers=(0,)
    ),
}


def make(config):
    """Random weights in which biases and LoRA matrices say something."""
    params = decoder.init_params(config, jax.random.key(0))
    lora = decoder.init_lora(config, jax.random.key(1)) if config.lora_rank else None
    return jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
        Weights(params, lora),
    )


def logits(config, weights, tokens):
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    hidden = jax.jit(decoder.forward, static_argnums=0)(config, weights, tokens, positions)
    return decoder.unembed(config, weights, hidden)


@pytest.mark.parametrize("rows", [2, 30], ids=["few rows", "many rows"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_logits(name, rows):
    config = VARIANTS[name]
    weights = make(config)
    tokens = np.random.default_rng(0).integers(1, 61, (rows, 12)).astype(np.int32)
    expected = logits(config, weights, tokens)
    np.testing.assert_allclose(logits(*stack(config, weights), tokens), expected, atol=2e-5)


def test_a_stack_of_bfloat16_weights_stays_bfloat16():
    weights = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make(DENSE))
    _, stacked = stack(DENSE, weights)
    assert {leaf.dtype for leaf in jax.tree.leaves(stacked)} == {jnp.dtype(jnp.bfloat16)}


LAYERED = dataclasses.replace(VARIANTS["lora"], backend="cuda_interpreted")


@pytest.mark.parametrize("config", [VARIANTS["lora"], LAYERED], ids=["layer by layer", "in a loop"])
def test_the_engine_gives_the_same_greedy_tokens(config):
    weights = make(config)
    generated = {}
    for order in ("as_trained", "stacked"):
        shapes = EngineConfig(
            slots=3, max_length=64, prefill_buckets=(16,), attend_buckets=(32,), decode_rows=(2,),
            weights=order,
        )  # fmt: skip
        engine = Engine(shapes, config, stop_id=0)
        for _ in range(2):  # loading again starts from the weights that it is given
            engine.load(weights, shared_prefix=(3, 4, 5))
        done = []
        for slots in ((0, 1), (0, 1, 2)):  # the third takes over what the others hold
            for slot in slots:
                prompt = (3, 4, 5, *range(6 + slot % 2, 20 + len(slots)))
                key = jax.random.key(0)
                engine.submit(GenerationRequest(slot, prompt, 20, key, temperature=0.0))
            while engine.pending:
                done += engine.step()
        generated[order] = sorted((each.slot, each.token_ids) for each in done)
    assert generated["stacked"] == generated["as_trained"]
    assert engine._model.layered == (config is LAYERED)
