"""Every family against transformers: ways of running, export and adapters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import (
    decoder,
    hf_config,
    hf_export,
    hf_import,
    kv_cache,
    loading,
    tokenizers,
)
from agemem_jax.models.decoder import Weights
from tests.models.conftest import VARIANTS, make_oracle

CACHE = 80
forward = jax.jit(decoder.forward, static_argnums=0)
forward_cached = jax.jit(decoder.forward_cached, static_argnums=0)


def random_tokens(rows: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 61, (rows, length)).astype(np.int32)


def logits(config, params, tokens: np.ndarray, lora=None) -> np.ndarray:
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    weights = Weights(params, lora)
    hidden = forward(config, weights, tokens, positions)
    return np.asarray(decoder.unembed(config, weights, hidden))


def test_logits_of_packed_and_padded_rows_equal_those_of_transformers(family_oracle):
    oracle = family_oracle
    first, second = random_tokens(1, 7, seed=1)[0], random_tokens(1, 4, seed=2)[0]
    row = np.concatenate([first, second, [5, 5]])[None].astype(np.int32)
    visible_to = np.repeat([7, 11, 0], [7, 4, 2])[None].astype(np.int32)
    positions = np.concatenate([np.arange(7), np.arange(4), [0, 0]])[None].astype(np.int32)
    weights = Weights(oracle.params)
    packed = decoder.unembed(
        oracle.config, weights, forward(oracle.config, weights, row, positions, visible_to)
    )[0]
    np.testing.assert_allclose(packed[:7], oracle.logits(first[None])[0], atol=1e-4, rtol=0)
    np.testing.assert_allclose(packed[7:11], oracle.logits(second[None])[0], atol=1e-4, rtol=0)


def test_logits_behind_a_shared_prefix_equal_those_of_transformers(family_oracle):
    oracle = family_oracle
    prefix, rest = random_tokens(1, 6, seed=3)[0], random_tokens(1, 7, seed=4)
    whole = np.concatenate([prefix, rest[0]])[None]
    weights = Weights(oracle.params)
    positions = np.arange(6, 13, dtype=np.int32)[None]
    hidden = forward(oracle.config, weights, rest, positions, prefix=prefix)
    behind = decoder.unembed(oracle.config, weights, hidden)[0]
    np.testing.assert_allclose(behind, oracle.logits(whole)[0, 6:], atol=1e-4, rtol=0)


def by_expert(name: str, gradient) -> dict[str, np.ndarray]:
    """transformers holds all experts of a layer in two arrays, files hold each by itself."""
    prefix, _, kind = name.rpartition(".")
    if kind not in ("gate_up_proj", "down_proj") or not prefix.endswith("experts"):
        return {name: gradient.numpy()}
    parts = {}
    for expert, matrix in enumerate(gradient.numpy()):
        if kind == "down_proj":
            parts[f"{prefix}.{expert}.down_proj.weight"] = matrix
        else:
            halves = np.split(matrix, 2)
            for half, matrix_of_half in zip(("gate_proj", "up_proj"), halves, strict=True):
                parts[f"{prefix}.{expert}.{half}.weight"] = matrix_of_half
    return parts


def test_gradients_of_every_parameter_equal_those_of_torch(family_oracle):
    import torch

    oracle, tokens = family_oracle, random_tokens(1, 12, seed=6)
    target = np.random.default_rng(7).normal(size=(1, 12, 61)).astype(np.float32)
    oracle.model.zero_grad()
    theirs = oracle.model(torch.from_numpy(tokens.astype(np.int64))).logits
    (torch.log_softmax(theirs, -1) * torch.from_numpy(target)).sum().backward()
    named = {}
    for name, parameter in oracle.model.named_parameters():
        named |= by_expert(name, parameter.grad)
    expected = hf_import.from_state(named, oracle.config, where="the gradients")
    positions = np.arange(12, dtype=np.int32)[None]

    @jax.jit
    def gradient(params):
        def loss(params):
            weights = Weights(params)
            hidden = decoder.forward(oracle.config, weights, tokens, positions)
            logits = decoder.unembed(oracle.config, weights, hidden)
            return jnp.sum(jax.nn.log_softmax(logits) * target)

        return jax.grad(loss)(params)

    found = gradient(oracle.params)
    for path, wanted in jax.tree_util.tree_leaves_with_path(expected):
        ours = functools.reduce(lambda tree, key: tree[key.key], path, found)
        largest = np.abs(wanted).max()
        assert largest > 0, path
        np.testing.assert_allclose(ours, wanted, atol=1e-4 * largest, rtol=0, err_msg=str(path))


def test_64_greedy_tokens_equal_those_of_transformers_and_one_pass(family_oracle):
    import torch

    oracle, prompt = family_oracle, random_tokens(1, 9, seed=5)
    with torch.no_grad():
        expected = oracle.model.generate(
            torch.from_numpy(prompt.astype(np.int64)), max_new_tokens=64, min_new_tokens=64,
            do_sample=False,
        )[0, 9:].numpy()  # fmt: skip
    config, weights = oracle.config, Weights(oracle.params)
    cache = kv_cache.init_cache(config, 1, CACHE, jnp.float32)
    hidden, cache = forward_cached(config, weights, prompt, np.arange(9)[None], cache)
    states, greedy = [hidden[:, -1]], []
    for position in range(9, 9 + 64):
        row = np.array(decoder.unembed(config, weights, states[-1])[0])
        row[2] = -np.inf  # transformers keeps the end away for as long
        greedy.append(int(np.argmax(row)))
        token = np.array([[greedy[-1]]], np.int32)
        hidden, cache = forward_cached(config, weights, token, np.array([[position]]), cache)
        states.append(hidden[:, 0])
    assert greedy == expected.tolist()
    decoded = decoder.unembed(config, weights, jnp.concatenate(states[:-1]))
    row = np.concatenate([prompt[0], greedy])[None].astype(np.int32)
    one_pass = logits(config, oracle.params, row)[0, 8:-1]
    np.testing.assert_allclose(decoded, one_pass, atol=1e-4, rtol=0)


@functools.cache
def tokenizer():
    return tokenizers.from_file(loading.assets("tiny") / "tokenizer.json")


def test_an_exported_model_gives_transformers_and_us_the_same_logits(family_oracle, tmp_path):
    import torch
    import transformers

    oracle, tokens = family_oracle, random_tokens(2, 12)
    hf_export.export_model(
        tmp_path / "out", oracle.config, oracle.params, tokenizer(), stop_id=2, dtype="float32",
        max_shard_size=20_000,
    )  # fmt: skip
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert again.dtype == torch.float32 and again.config.eos_token_id == 2
    roles = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert roles.eos_token_id == 2 and roles.pad_token_id is not None
    expected = oracle.logits(tokens)
    with torch.no_grad():
        theirs = again.eval()(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(theirs, expected, atol=1e-5, rtol=0)
    config = hf_config.read_config(tmp_path / "out")
    ours = logits(config, hf_import.read_params(tmp_path / "out", config), tokens)
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=0)


def test_an_adapter_gives_peft_the_logits_that_lora_gives_us(family_oracle, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is the oracle and is not installed")
    import torch

    oracle, tokens = family_oracle, random_tokens(2, 12)
    config = dataclasses.replace(oracle.config, lora_rank=3, lora_alpha=5.0)
    lora = jax.tree.map(
        lambda x: 0.2 * jax.random.normal(jax.random.key(x.size), x.shape),
        decoder.init_lora(config, jax.random.key(1)),
    )
    ours = logits(config, oracle.params, tokens, lora)
    assert np.abs(ours - oracle.logits(tokens)).max() > 0.1
    hf_export.export_adapter(tmp_path / "adapter", config, lora, base_model="base")
    oracle.model.save_pretrained(tmp_path / "base")
    base = type(oracle.model).from_pretrained(tmp_path / "base", attn_implementation="eager")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    merged = decoder.merge_lora(config, oracle.params, lora)
    np.testing.assert_allclose(logits(oracle.config, merged, tokens), theirs, atol=1e-4, rtol=0)


def test_the_variants_cover_every_family():
    assert {family for family, _ in VARIANTS.values()} == set(hf_config.FAMILIES)


def test_every_expert_is_asked_and_routing_is_not_the_same_for_all_tokens():
    """The comparison with transformers would mean little if one expert did all the work."""
    oracle = make_oracle("qwen3_moe")
    hidden = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    router = np.asarray(oracle.params["layer_0"]["mlp"]["router"])
    chosen = np.argsort(-(hidden @ router), axis=1)[:, :2]
    assert set(chosen.reshape(-1)) == set(range(6))
