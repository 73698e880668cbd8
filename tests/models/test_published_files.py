"""Directories as they are published: placeholder tokens, several end tokens, tied outputs."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers

from agemem_jax.models import decoder, hf_export, hf_import, loading
from agemem_jax.models.decoder import Weights
from agemem_jax.protocol.chat_formats import ChatEncoder, check_template, find_format
from agemem_jax.protocol.messages import Kind
from tests.models.conftest import make_oracle
from tests.small_models import write_model


def load(directory):
    return loading.load_backbone(str(directory), key=jax.random.key(0))


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def add_token(directory, content, *, special):
    """Adds a token behind all others, and so behind the embeddings; returns its id."""
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    token = json.loads((directory / "config.json").read_text())["vocab_size"]
    tokenizer["added_tokens"].append(
        {"id": token, "content": content, "special": special, "single_word": False,
         "lstrip": False, "rstrip": False, "normalized": False}
    )  # fmt: skip
    path.write_text(json.dumps(tokenizer))
    return token


def test_a_placeholder_behind_the_embeddings_loads_and_no_contents_give_its_id(tmp_path):
    directory = write_model(tmp_path / "m", "gemma3_text")
    token = add_token(directory, "<image_soft_token>", special=True)
    backbone = load(directory)
    assert backbone.tokenizer.convert_tokens_to_ids("<image_soft_token>") == token
    assert token >= backbone.config.vocab_size
    chat = ChatEncoder(backbone.tokenizer, find_format(backbone.tokenizer), backbone.end_ids)
    check_template(chat)
    text = "An <image_soft_token> here."
    message = chat.message("user", text, Kind.QUERY)
    assert max(message.token_ids) < backbone.config.vocab_size
    assert text in chat.decode(message.token_ids)


def test_a_token_of_text_behind_the_embeddings_is_refused(tmp_path):
    directory = write_model(tmp_path / "m", "gemma3_text")
    token = add_token(directory, "<table>", special=False)
    with pytest.raises(ValueError, match=f"token ids up to {token}, but the model embeds only"):
        load(directory)


def test_all_end_tokens_of_a_directory_are_read_and_written_again(tmp_path):
    directory = write_model(tmp_path / "m", "llama")
    vocabulary = load(directory).tokenizer.get_vocab()
    eot, header = vocabulary["<|eot_id|>"], vocabulary["<|start_header_id|>"]
    text, size = vocabulary["a"], len(vocabulary)
    assert load(directory).end_ids == (eot,)
    change(directory / "generation_config.json", eos_token_id=[header, text, eot, size + 3])
    change(directory / "config.json", eos_token_id=[eot])
    backbone = load(directory)
    assert backbone.end_ids == (eot, header, text)  # what is not embedded is never sampled
    chat = ChatEncoder(backbone.tokenizer, find_format(backbone.tokenizer), backbone.end_ids)
    assert chat.stop_ids == (eot, header, text)
    hf_export.export_model(
        tmp_path / "out", backbone.config, backbone.params, backbone.tokenizer,
        stop_id=chat.stop_id, end_ids=chat.stop_ids, dtype="float32",
    )  # fmt: skip
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.eos_token_id == [eot, header, text]
    assert load(tmp_path / "out").end_ids == (eot, header, text)


@pytest.mark.parametrize("content", ["[1]", "no json", ""])
def test_a_generation_config_that_cannot_be_read_is_named(content, tmp_path):
    directory = write_model(tmp_path / "m", "qwen2")
    (directory / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match="generation_config.json cannot be read as a JSON object"):
        load(directory)


def save(oracle, directory, **changes):
    """The oracle's directory in which some tensors are other ones, or left out (None)."""
    oracle.model.save_pretrained(directory)
    state = {name: weight.numpy() for name, weight in oracle.model.state_dict().items()}
    for name, weight in changes.items():
        state.pop(name.replace("__", "."), None)
        if weight is not None:
            state[name.replace("__", ".")] = weight
    safetensors.numpy.save_file(state, directory / "model.safetensors", {"format": "pt"})


OTHER = np.random.default_rng(0).normal(size=(61, 32)).astype(np.float32)


@pytest.mark.parametrize(
    ("changes", "tied"),
    [
        ({"lm_head__weight": OTHER}, False),
        ({}, True),  # both are in the file, and equal
        ({"lm_head__weight": None}, True),
        ({"model__embed_tokens__weight": None}, True),
    ],
)
def test_a_tied_model_has_the_output_that_transformers_gives_it(changes, tied, tmp_path, caplog):
    torch = pytest.importorskip("torch", reason="torch is the oracle and is not installed")
    oracle = make_oracle("qwen2")
    assert oracle.config.tied_embeddings
    save(oracle, tmp_path, **changes)
    tokens = np.array([[5, 7, 60, 3, 3, 19]])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    )
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(tokens)).logits.numpy()
    config = hf_import.untied_by_files(tmp_path, oracle.config)
    assert config.tied_embeddings == tied
    warned = [r for r in caplog.records if "lm_head.weight is another matrix" in r.getMessage()]
    assert len(warned) == (not tied)
    weights = Weights(hf_import.read_params(tmp_path, config))
    hidden = decoder.forward(config, weights, tokens, np.arange(6)[None])
    ours = decoder.unembed(config, weights, hidden)
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=0)


def test_a_backbone_takes_the_output_matrix_of_its_files(tmp_path):
    directory = write_model(tmp_path / "m", "gemma3_text")
    tied = load(directory)
    state = safetensors.numpy.load_file(directory / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"][::-1].copy()
    safetensors.numpy.save_file(state, directory / "model.safetensors", {"format": "pt"})
    own = load(directory)
    assert tied.config.tied_embeddings and not own.config.tied_embeddings
    np.testing.assert_array_equal(own.params["output"], tied.params["embedding"][::-1])


def test_an_output_matrix_that_is_missing_is_explained(tmp_path):
    directory = write_model(tmp_path / "m", "gemma3_text")
    change(directory / "config.json", tie_word_embeddings=False)
    with pytest.raises(ValueError, match="lm_head.weight is missing though config.json has tie_wo"):
        load(directory)
