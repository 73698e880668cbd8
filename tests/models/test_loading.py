"""Backbones by name, and parameter files."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax

from agemem_jax.models import decoder, hf_config, hf_import, loading, weight_files
from agemem_jax.models.decoder import Weights
from tests.small_models import write_model

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def tiny():
    return loading.load_backbone("tiny", init="random", key=KEY)


def test_tiny_has_the_registered_shape_and_the_vocabulary_of_its_tokenizer(tiny):
    assert tiny.config.vocab_size == len(tiny.tokenizer)
    assert tiny.params["embedding"].shape == (len(tiny.tokenizer), 128)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), decoder.abstract_params(tiny.config))
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), tiny.params)


def test_the_tokenizer_of_tiny_gives_back_every_text_and_knows_its_delimiters(tiny):
    for text in ("Ålesund, 1 October 2026:  'don't' .\n\t☃", "<|im_start|>user\nhi<|im_end|>\n"):
        ids = tiny.tokenizer.encode(text, add_special_tokens=False)
        assert tiny.tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tiny.tokenizer.convert_tokens_to_ids("<|im_end|>") in ids


def test_random_parameters_follow_the_key(tiny):
    again = loading.load_backbone("tiny", init="random", key=KEY)
    other = loading.load_backbone("tiny", init="random", key=jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, tiny.params, again.params)
    assert np.any(np.asarray(tiny.params["embedding"] != other.params["embedding"]))


def test_options_reach_the_configuration():
    backbone = loading.load_backbone(
        "tiny", init="random", compute_dtype="bfloat16", lora_rank=4, lora_alpha=8.0, key=KEY
    )
    config = backbone.config
    assert (config.compute_dtype, config.lora_rank, config.lora_alpha) == ("bfloat16", 4, 8.0)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(backbone.params))


def test_pretrained_tiny_reads_the_shipped_file_or_says_where_it_belongs(
    tiny, tmp_path, monkeypatch
):
    source = loading.assets("tiny") / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
    monkeypatch.setattr(loading, "assets", lambda name: tmp_path)
    with pytest.raises(FileNotFoundError, match="warmup.safetensors"):
        loading.load_backbone("tiny", key=KEY)
    weight_files.save_params(tmp_path / "warmup.safetensors", tiny.params)
    loaded = loading.load_backbone("tiny", key=jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, tiny.params)


def test_unknown_names_are_refused_beside_the_known_ones():
    with pytest.raises(ValueError, match="'llama-9', which is neither.*: tiny, smollm2-135m"):
        loading.load_backbone("llama-9", key=KEY)
    with pytest.raises(ValueError, match="'warm'.*pretrained, random"):
        loading.load_backbone("tiny", init="warm", key=KEY)


def test_weights_that_were_not_fetched_are_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("AGEMEM_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="agemem-fetch --names=smollm2-135m"):
        loading.load_backbone("smollm2-135m", key=KEY)


def test_parameter_files_that_do_not_fit_name_every_difference(tmp_path):
    like = {"a": {"kernel": jnp.ones((2, 3))}, "b": {"scale": jnp.ones(2)}}
    weight_files.save_params(tmp_path / "p", {"a": {"kernel": jnp.ones((3, 2))}, "c": jnp.ones(1)})
    with pytest.raises(ValueError) as error:
        weight_files.load_params(tmp_path / "p", like)
    for part in ("b/scale is missing", "c is unknown", "a/kernel has shape (3, 2) instead of"):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match="absent"):
        weight_files.load_params(tmp_path / "absent", like)


def test_a_damaged_parameter_file_is_refused_in_one_sentence(tmp_path):
    weight_files.save_params(tmp_path / "p", {"a": jnp.ones(100)})
    (tmp_path / "p").write_bytes((tmp_path / "p").read_bytes()[:-7])
    with pytest.raises(ValueError, match="cannot be read"):
        weight_files.load_params(tmp_path / "p", {"a": jnp.ones(100)})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_hugging_face_directory_gives_the_model_back(dtype, oracle, tmp_path):
    oracle.model.config.save_pretrained(tmp_path)
    state = {
        name: jnp.asarray(weight.numpy(), dtype)
        for name, weight in oracle.model.state_dict().items()
        if name != "lm_head.weight"  # tied, so not written
    }
    safetensors.flax.save_file(state, tmp_path / "model.safetensors")
    config = hf_config.read_config(tmp_path)
    assert config == oracle.config
    params = hf_import.read_params(tmp_path, config)
    assert params["embedding"].dtype == jnp.float32
    if dtype == jnp.float32:
        tokens = np.array([[5, 7, 60, 3, 3, 19]])
        weights = Weights(params)
        positions = np.arange(6)[None]
        hidden = decoder.forward(config, weights, tokens, positions)
        logits = decoder.unembed(config, weights, hidden)
        np.testing.assert_allclose(logits, oracle.logits(tokens), atol=1e-4)
    else:
        exact = oracle.params["embedding"]
        np.testing.assert_array_equal(params["embedding"], exact.astype(dtype).astype(jnp.float32))


def test_a_hugging_face_directory_of_another_family_is_refused_by_name(oracle, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        hf_config.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="model_type 'gpt2'"):
        hf_config.read_config(tmp_path)


def test_each_device_holds_its_slice_and_nothing_more(tmp_path):
    """On eight virtual devices, which only a process of its own can have."""
    write_model(tmp_path / "model", "qwen3_moe")
    program = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from agemem_jax.models import decoder, hf_config, hf_import

config = hf_config.read_config(sys.argv[1])
mesh = jax.make_mesh((2, 4), ("data", "tensor"))
axes = decoder.logical_axes(config)
rules = {"embed": "data", "mlp": "tensor", "heads": "tensor", "vocab": "tensor"}

def place(names):
    return NamedSharding(mesh, PartitionSpec(*(rules.get(name) for name in names)))

shardings = jax.tree.map(place, axes, is_leaf=lambda x: isinstance(x, PartitionSpec))
placed = hf_import.read_params(sys.argv[1], config, shardings=shardings, dtype="bfloat16")
whole = hf_import.read_params(sys.argv[1], config)
jax.tree.map(lambda a, s: (a.sharding == s) or sys.exit("misplaced"), placed, shardings)
for a, b in zip(jax.tree.leaves(placed), jax.tree.leaves(whole)):
    np.testing.assert_array_equal(a, b.astype("bfloat16"))
down = placed["layer_0"]["mlp"]["down_proj"]
print(len(jax.devices()), down.shape, down.addressable_shards[0].data.shape)
"""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model")],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[0] == "8 (4, 16, 32) (4, 4, 16)"
