"""A text model inside one that reads images: read, trained, and exported as what it is."""

import json

import jax
import numpy as np
import pytest

from agemem_jax.models import decoder, hf_config, hf_export, hub, loading
from agemem_jax.models.decoder import Weights
from tests.small_models import tokenizer_of, write_model

TOKENS = np.array([[5, 7, 60, 3, 3, 19]])


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random Gemma 3 that reads images, written by transformers."""
    torch = pytest.importorskip("torch", reason="torch is the oracle and is not installed")
    import transformers

    torch.manual_seed(0)
    text = dict(
        vocab_size=1040, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16,
        sliding_window=64, layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=256, initializer_range=0.3,
    )  # fmt: skip
    vision = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    stop = tokenizer_of("gemma").get_vocab()["<end_of_turn>"]
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=1030,
        boi_token_index=1031, eoi_token_index=1032, eos_token_id=stop,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("gemma3") / "base"
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    of_text = write_model(folder.parent / "text", "gemma3_text")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((of_text / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def backbone(directory):
    return loading.load_backbone(str(directory), key=jax.random.key(0), lora_rank=2, lora_alpha=4.0)


@pytest.fixture(scope="module")
def lora(backbone):
    return jax.tree.map(
        lambda x: 0.2 * jax.random.normal(jax.random.key(x.size), x.shape),
        decoder.init_lora(backbone.config, jax.random.key(1)),
    )


def logits(backbone, lora=None):
    weights = Weights(backbone.params, lora)
    hidden = decoder.forward(backbone.config, weights, TOKENS, np.arange(6)[None])
    return np.asarray(decoder.unembed(backbone.config, weights, hidden))


def theirs(model):
    import torch

    with torch.no_grad():
        return model.eval()(torch.from_numpy(TOKENS)).logits.numpy()


@pytest.mark.parametrize("auto", ["AutoModelForCausalLM", "AutoModelForImageTextToText"])
def test_an_adapter_gives_the_whole_model_the_logits_that_lora_gives_us(
    auto, directory, backbone, lora, tmp_path
):
    peft = pytest.importorskip("peft", reason="peft is the oracle and is not installed")
    import torch
    import transformers

    hf_export.export_adapter(tmp_path / "adapter", backbone.config, lora, base_model=str(directory))
    model = getattr(transformers, auto).from_pretrained(directory, dtype=torch.float32)
    np.testing.assert_allclose(theirs(model), logits(backbone), atol=1e-4, rtol=0)
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    assert np.abs(logits(backbone, lora) - logits(backbone)).max() > 0.1
    np.testing.assert_allclose(theirs(adapted), logits(backbone, lora), atol=1e-4, rtol=0)
    touched = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    assert touched and all(".language_model." in name for name in touched)


def test_a_repository_that_was_fetched_tells_what_an_adapter_is_for(
    directory, backbone, lora, tmp_path, monkeypatch
):
    asked = []

    def cached_file(repository, name):
        asked.append((repository, name))
        return directory / name if "4b" in repository else None

    monkeypatch.setattr(hub, "cached_file", cached_file)
    modules = {}
    for name in ("google/gemma-3-4b-it", "google/gemma-3-1b-it"):
        target = tmp_path / name
        hf_export.export_adapter(target, backbone.config, lora, base_model=name)
        modules[name] = json.loads((target / "adapter_config.json").read_text())["target_modules"]
    assert asked == [(name, "config.json") for name in modules]
    assert "language_model" in modules["google/gemma-3-4b-it"]
    assert modules["google/gemma-3-1b-it"] == sorted(backbone.config.lora_targets)


def test_a_merged_export_is_the_text_model_and_loads_as_one(backbone, lora, tmp_path):
    import torch
    import transformers

    merged = decoder.merge_lora(backbone.config, backbone.params, lora)
    stop = backbone.end_ids[0]
    hf_export.export_model(
        tmp_path / "out", backbone.config, merged, backbone.tokenizer, stop_id=stop,
        dtype="float32",
    )  # fmt: skip
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["model_type"] == "gemma3_text"
    assert values["architectures"] == ["Gemma3ForCausalLM"] and "vision_config" not in values
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    np.testing.assert_allclose(theirs(model), logits(backbone, lora), atol=1e-4, rtol=0)
    again = loading.load_backbone(str(tmp_path / "out"), key=None)
    np.testing.assert_allclose(logits(again), logits(backbone, lora), atol=1e-4, rtol=0)


def test_the_whole_model_says_whether_its_output_is_tied(directory, tmp_path):
    values = json.loads((directory / "config.json").read_text())
    values["tie_word_embeddings"] = False
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert hf_config.read_config(directory).tied_embeddings
    assert not hf_config.read_config(tmp_path).tied_embeddings
