"""Backbones by name, and parameter files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax

from agemem_jax.models import decoder, hf_import, registry
from agemem_jax.models.decoder import Weights

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def tiny():
    return registry.load_backbone("tiny", init="random", key=KEY)


def test_tiny_has_the_registered_shape_and_the_vocabulary_of_its_tokenizer(tiny):
    assert tiny.config.vocab_size == len(tiny.tokenizer)
    assert tiny.params["embedding"].shape == (len(tiny.tokenizer), 128)
    assert tiny.chat_format_name == "chatml"
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), decoder.abstract_params(tiny.config))
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), tiny.params)


def test_the_tokenizer_of_tiny_gives_back_every_text_and_knows_its_delimiters(tiny):
    for text in ("Ålesund, 1 October 2026:  'don't' .\n\t☃", "<|im_start|>user\nhi<|im_end|>\n"):
        ids = tiny.tokenizer.encode(text, add_special_tokens=False)
        assert tiny.tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tiny.tokenizer.convert_tokens_to_ids("<|im_end|>") in ids


def test_random_parameters_follow_the_key(tiny):
    again = registry.load_backbone("tiny", init="random", key=KEY)
    other = registry.load_backbone("tiny", init="random", key=jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, tiny.params, again.params)
    assert np.any(np.asarray(tiny.params["embedding"] != other.params["embedding"]))


def test_options_reach_the_configuration():
    backbone = registry.load_backbone(
        "tiny", init="random", compute_dtype="bfloat16", lora_rank=4, lora_alpha=8.0, key=KEY
    )
    config = backbone.config
    assert (config.compute_dtype, config.lora_rank, config.lora_alpha) == ("bfloat16", 4, 8.0)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(backbone.params))


def test_pretrained_tiny_reads_the_shipped_file_or_says_where_it_belongs(
    tiny, tmp_path, monkeypatch
):
    source = registry.assets("tiny") / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
    monkeypatch.setattr(registry, "assets", lambda name: tmp_path)
    with pytest.raises(FileNotFoundError, match="warmup.safetensors"):
        registry.load_backbone("tiny", key=KEY)
    registry.save_params(tmp_path / "warmup.safetensors", tiny.params)
    loaded = registry.load_backbone("tiny", key=jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, tiny.params)


def test_unknown_names_are_refused_beside_the_known_ones():
    with pytest.raises(ValueError, match="'llama-9'.*tiny, smollm2-135m"):
        registry.load_backbone("llama-9", key=KEY)
    with pytest.raises(ValueError, match="'warm'.*pretrained, random"):
        registry.load_backbone("tiny", init="warm", key=KEY)


def test_weights_that_were_not_fetched_are_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("AGEMEM_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="fetch_weights.py --names=smollm2-135m"):
        registry.load_backbone("smollm2-135m", key=KEY)


def test_parameter_files_that_do_not_fit_name_every_difference(tmp_path):
    like = {"a": {"kernel": jnp.ones((2, 3))}, "b": {"scale": jnp.ones(2)}}
    registry.save_params(tmp_path / "p", {"a": {"kernel": jnp.ones((3, 2))}, "c": jnp.ones(1)})
    with pytest.raises(ValueError) as error:
        registry.load_params(tmp_path / "p", like)
    for part in ("b/scale is missing", "c is unknown", "a/kernel has shape (3, 2) instead of"):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match="absent"):
        registry.load_params(tmp_path / "absent", like)


def test_a_damaged_parameter_file_is_refused_in_one_sentence(tmp_path):
    registry.save_params(tmp_path / "p", {"a": jnp.ones(100)})
    (tmp_path / "p").write_bytes((tmp_path / "p").read_bytes()[:-7])
    with pytest.raises(ValueError, match="cannot be read"):
        registry.load_params(tmp_path / "p", {"a": jnp.ones(100)})


def test_a_directory_of_qwen2_brings_its_biases(qwen2_oracle, tmp_path):
    qwen2_oracle.model.config.save_pretrained(tmp_path)
    assert hf_import.read_config(tmp_path) == qwen2_oracle.config
    assert np.any(qwen2_oracle.params["layer_1"]["attention"]["k_proj"]["bias"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_hugging_face_directory_gives_the_model_back(dtype, oracle, tmp_path):
    oracle.model.config.save_pretrained(tmp_path)
    state = {
        name: jnp.asarray(weight.numpy(), dtype)
        for name, weight in oracle.model.state_dict().items()
        if name != "lm_head.weight"  # tied, so not written
    }
    safetensors.flax.save_file(state, tmp_path / "model.safetensors")
    config = hf_import.read_config(tmp_path)
    assert config == oracle.config
    params = hf_import.read_params(tmp_path, config)
    assert params["embedding"].dtype == jnp.float32
    if dtype == jnp.float32:
        tokens = np.array([[5, 7, 60, 3, 3, 19]])
        weights = Weights(params)
        positions = np.arange(6)[None]
        hidden = decoder.forward(config, weights, tokens, positions, np.ones_like(tokens))
        logits = decoder.unembed(config, weights, hidden)
        np.testing.assert_allclose(logits, oracle.logits(tokens), atol=1e-4)
    else:
        exact = oracle.params["embedding"]
        np.testing.assert_array_equal(params["embedding"], exact.astype(dtype).astype(jnp.float32))


def test_a_hugging_face_directory_of_another_family_is_refused_by_name(oracle, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        hf_import.read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="model_type 'gpt2'"):
        hf_import.read_config(tmp_path)
