"""GGUF files written by the gguf package from a known model give that model back."""

import dataclasses
import os

import gguf
import numpy as np
import pytest
import transformers

from agemem_jax.models import decoder, gguf_import, hf_config, loading, tokenizers
from agemem_jax.models.decoder import Weights
from agemem_jax.models.rope import Rope
from tests.models.conftest import make_oracle
from tests.models.gguf_files import (
    as_llama_cpp_stores,
    q4_k,
    q5_0,
    q6_k,
    q8_0,
    tensors_of,
    write,
)  # fmt: skip


def logits_of(config, params, tokens):
    positions = np.arange(tokens.shape[1])[None]
    hidden = decoder.forward(config, Weights(params), tokens, positions)
    return decoder.unembed(config, Weights(params), hidden)


@pytest.mark.parametrize("variant", ["llama", "llama_untied", "qwen2", "qwen3"])
def test_a_float_file_gives_the_logits_of_transformers(variant, tmp_path):
    oracle, architecture = make_oracle(variant), variant.split("_")[0]
    write(tmp_path / "m.gguf", oracle.config, tensors_of(oracle), architecture=architecture)
    reader = gguf_import.open_gguf(tmp_path / "m.gguf")
    config = gguf_import.read_config(reader)
    assert config == oracle.config
    tokens = np.array([[5, 7, 60, 3, 3, 19]])
    logits = logits_of(config, gguf_import.read_params(reader, config), tokens)
    np.testing.assert_allclose(logits, oracle.logits(tokens), atol=1e-4)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_quantised_tensors_come_back_within_their_step(kind, oracle, tmp_path):
    kind = gguf.GGMLQuantizationType[kind]
    tensors = tensors_of(oracle)
    write(tmp_path / "m.gguf", oracle.config, tensors, kind=kind)
    reader = gguf_import.open_gguf(tmp_path / "m.gguf")
    params = gguf_import.read_params(reader, gguf_import.read_config(reader))
    exact, read = np.asarray(oracle.params["embedding"]), np.asarray(params["embedding"])
    largest = np.abs(exact.reshape(61, -1, 32)).max()
    step = {"F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 127, "Q4_0": 1 / 8, "Q4_1": 2 / 15}
    assert 0 < np.abs(exact - read).max() <= largest * step[kind.name]


@pytest.mark.parametrize(("kind", "size", "oracle_of"), [("Q4_K", 144, q4_k), ("Q6_K", 210, q6_k)])
def test_super_blocks_are_read_as_the_format_says(kind, size, oracle_of, tmp_path):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (3, size), dtype=np.uint8)
    factors = rng.uniform(0.01, 0.1, (3, 2)).astype(np.float16).view(np.uint8)
    if kind == "Q4_K":
        blocks[:, :4] = factors
    else:
        blocks[:, 208:] = factors[:, :2]
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tensor("t", blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tensor,) = gguf_import.open_gguf(tmp_path / "t.gguf").tensors
    read = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    np.testing.assert_allclose(read, [oracle_of(block) for block in blocks], rtol=1e-5, atol=1e-6)


def test_wrong_tensors_are_all_named(oracle, tmp_path):
    tensors = tensors_of(oracle)
    del tensors["blk.1.ffn_up.weight"]
    tensors["rope_factors_long.weight"] = np.ones(4, np.float32)
    tensors["blk.0.attn_k.weight"] = np.ones((24, 32), np.float32)
    write(tmp_path / "m.gguf", oracle.config, tensors)
    reader = gguf_import.open_gguf(tmp_path / "m.gguf")
    with pytest.raises(ValueError) as error:
        gguf_import.read_params(reader, gguf_import.read_config(reader))
    for part in (
        "blk.1.ffn_up.weight is missing",
        "rope_factors_long.weight is unknown",
        "blk.0.attn_k.weight has shape (24, 32) instead of (16, 32)",
    ):
        assert part in str(error.value)


def test_a_file_that_is_cut_off_or_no_gguf_is_refused(oracle, tmp_path):
    path = tmp_path / "m.gguf"
    write(path, oracle.config, tensors_of(oracle))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"no model", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="m.gguf cannot be read as GGUF"):
            gguf_import.open_gguf(path)
    with pytest.raises(FileNotFoundError, match="no GGUF file"):
        gguf_import.open_gguf(tmp_path / "absent.gguf")


def test_another_architecture_is_refused_by_name(oracle, tmp_path):
    write(tmp_path / "m.gguf", oracle.config, {}, architecture="gemma")
    with pytest.raises(ValueError, match="'gemma'"):
        gguf_import.read_config(gguf_import.open_gguf(tmp_path / "m.gguf"))


def test_the_tokenizer_is_that_of_the_file_and_is_kept_beside_it(oracle, tmp_path):
    path = tmp_path / "m.gguf"
    write(path, oracle.config, {})
    for source in ("file", "kept"):
        tokenizer = tokenizers.from_gguf(path)
        assert len(tokenizer) == 61
        ids = tokenizer.encode("ab  12<|im_end|>", add_special_tokens=False)
        # Digits are cut off one by one first, so both spaces stay together.
        assert ids == [3, 5, 6, 7, 0], source
        assert tokenizer.decode(ids, skip_special_tokens=False) == "ab  12<|im_end|>"
        assert (tmp_path / "m.gguf.tokenizer.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "m.gguf.tokenizer.json"]


def test_a_kept_tokenizer_serves_no_other_file_whatever_its_time(oracle, tmp_path):
    path = tmp_path / "m.gguf"
    write(path, oracle.config, {})
    assert tokenizers.from_gguf(path).decode([3]) == "ab"
    kept = (tmp_path / "m.gguf.tokenizer.json").read_bytes()
    write(path, oracle.config, {}, first="ba")
    os.utime(path, (0, 0))  # older than what was kept
    assert tokenizers.from_gguf(path).decode([3]) == "ba"
    write(path, oracle.config, {})
    (tmp_path / "m.gguf.tokenizer.json").write_bytes(kept)
    later = (tmp_path / "m.gguf.tokenizer.json").stat().st_mtime + 9
    os.utime(path, (later, later))
    assert tokenizers.from_gguf(path).decode([3]) == "ab"
    assert (tmp_path / "m.gguf.tokenizer.json").read_bytes() == kept  # which was used


@pytest.mark.parametrize("damaged", ["", "{}", '{"version": "1.0"}', "half"])
def test_a_kept_tokenizer_that_is_damaged_or_of_another_version_is_made_anew(
    damaged, oracle, tmp_path
):
    path, kept = tmp_path / "m.gguf", tmp_path / "m.gguf.tokenizer.json"
    write(path, oracle.config, {})
    tokenizers.from_gguf(path)
    whole = kept.read_text(encoding="utf-8")
    kept.write_text(whole[: len(whole) // 2] if damaged == "half" else damaged, encoding="utf-8")
    assert tokenizers.from_gguf(path).decode([3]) == "ab"
    assert kept.read_text(encoding="utf-8") == whole


def test_what_a_policy_writes_is_no_special_token_and_control_tokens_are(oracle, tmp_path):
    types = {"<unused0>": 4, "<unused1>": 3}  # user defined, as <tool_call> is, and control
    write(tmp_path / "m.gguf", oracle.config, {}, types=types)
    for _ in ("file", "kept"):
        added = tokenizers.from_gguf(tmp_path / "m.gguf").added_tokens_decoder
        assert {token: added[token].special for token in added} == {0: True, 9: False, 10: True}


def test_words_of_llama_3_are_taken_whole_without_merges(oracle, tmp_path):
    for pre, expected in (("llama-bpe", [8]), ("qwen2", [3, 1])):
        write(tmp_path / f"{pre}.gguf", oracle.config, {}, pre=pre, last="aba")
        tokenizer = tokenizers.from_gguf(tmp_path / f"{pre}.gguf")
        assert tokenizer.encode("aba", add_special_tokens=False) == expected


def test_the_ends_that_a_file_names_are_those_of_the_backbone(oracle, tmp_path):
    fields = {f"tokenizer.ggml.{name}_token_id": i for name, i in (("eos", 5), ("eot", 0))}
    write(tmp_path / "m.gguf", oracle.config, tensors_of(oracle), fields=fields)
    backbone = loading.load_backbone(str(tmp_path / "m.gguf"), key=None)
    assert backbone.end_ids == (5, 0)
    assert np.all(backbone.params["embedding"] == oracle.params["embedding"])


def llama3_divisors(rope: Rope, head_dim: int) -> np.ndarray:
    """What converters store for a rule: how much slower each rotation is than without it."""
    plain = Rope(theta=rope.theta).frequencies(head_dim)
    return (plain / rope.frequencies(head_dim)).astype(np.float32)


def test_a_tensor_of_rotary_divisors_gives_the_logits_of_scaled_rope(tmp_path):
    """The rule of transformers' model, of which the file holds the divisors alone."""
    oracle = make_oracle("llama_llama3_rope")
    divisors = llama3_divisors(oracle.config.rope, oracle.config.head_dim)
    assert divisors.max() > 2.0
    write(tmp_path / "m.gguf", oracle.config, tensors_of(oracle) | {"rope_freqs.weight": divisors})
    backbone = loading.load_backbone(str(tmp_path), key=None)
    tokens = np.arange(3, 51)[None]
    logits = logits_of(backbone.config, backbone.params, tokens)
    np.testing.assert_allclose(logits, oracle.logits(tokens), atol=1e-4)
    unscaled = dataclasses.replace(backbone.config, rope=Rope(theta=oracle.config.rope.theta))
    assert np.abs(logits_of(unscaled, backbone.params, tokens) - logits).max() > 0.01
    with pytest.raises(ValueError, match="No model type of Hugging Face.*frequencies are a table"):
        hf_config.to_values(backbone.config)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_divisors_of_llama_3_are_known_by_their_rule_and_exported_as_it(factor, oracle, tmp_path):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rule = Rope(theta=5e5, scaling="llama3", factor=factor, original_positions=8192)
    config = dataclasses.replace(oracle.config, rope=rule, head_dim=64, max_positions=131_072)
    values = hf_config.to_values(config)
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](transformers.LlamaConfig(**values), "cpu")
    plain = 5e5 ** -(np.arange(0, 64, 2, dtype=np.float32) / 64)
    divisors = (plain / theirs.numpy()).astype(np.float32)
    write(tmp_path / "m.gguf", config, {"rope_freqs.weight": divisors})
    found = gguf_import.read_config(gguf_import.open_gguf(tmp_path / "m.gguf"))
    assert found.rope == rule
    assert hf_config.to_values(found)["rope_parameters"] == values["rope_parameters"]


def test_divisors_that_are_none_or_no_divisors_are_told_apart(oracle, tmp_path):
    half = oracle.config.head_dim // 2
    for name, divisors in (
        ("ones", np.ones(half)), ("long", np.ones(half + 1)), ("zero", np.zeros(half)),
    ):  # fmt: skip
        tensors = {"rope_freqs.weight": divisors.astype(np.float32)}
        write(tmp_path / f"{name}.gguf", oracle.config, tensors)
        reader = gguf_import.open_gguf(tmp_path / f"{name}.gguf")
        if name == "ones":
            assert gguf_import.read_config(reader).rope == oracle.config.rope
            continue
        with pytest.raises(ValueError, match="a positive number for each of the 4 rotations"):
            gguf_import.read_config(reader)


def test_of_several_files_one_is_asked_for_and_may_be_named(oracle, tmp_path):
    tensors = tensors_of(oracle)
    write(tmp_path / "a-F32.gguf", oracle.config, tensors)
    write(tmp_path / "b-Q8_0.gguf", oracle.config, tensors, kind=gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(ValueError, match=r"several GGUF files \(a-F32.gguf, b-Q8_0.gguf\); name"):
        loading.load_backbone(str(tmp_path), key=None)
    read = [
        np.asarray(loading.load_backbone(str(path), key=None).params["embedding"])
        for path in sorted(tmp_path.glob("*.gguf"))
    ]
    assert 0 < np.abs(read[0] - read[1]).max() < 0.1
    loading.check_name(str(tmp_path / "a-F32.gguf"))
    with pytest.raises(ValueError, match="absent.gguf', but there is no such GGUF file"):
        loading.check_name(str(tmp_path / "absent.gguf"))


def test_parts_of_a_model_are_refused_with_the_command_that_joins_them(oracle, tmp_path):
    for part in (1, 2):
        name = f"m-0000{part}-of-00002.gguf"
        write(tmp_path / name, oracle.config, {}, fields={"split.count": 2})
    for named in (tmp_path, tmp_path / "m-00002-of-00002.gguf"):
        with pytest.raises(ValueError, match="one of 2 parts of a model; join them with.*--merge"):
            loading.load_backbone(str(named), key=None)


def test_a_file_of_mixed_quantisations_is_read(tmp_path):
    """As Qwen publishes them: what a kind of blocks divides has it, the rest another."""
    kinds = {
        "attn_q": ("Q4_K", 144, 256, q4_k), "attn_v": ("Q6_K", 210, 256, q6_k),
        "attn_k": ("Q5_0", 22, 32, q5_0), "ffn_up": ("Q8_0", 34, 32, q8_0),
    }  # fmt: skip
    config = dataclasses.replace(
        make_oracle("llama").config, width=256, head_dim=64, num_layers=1, ffn_width=32
    )
    rng = np.random.default_rng(0)
    names = {
        gguf_name: part.shape
        for part in gguf_import.stored_parameters(config).values()
        for gguf_name in gguf_import._gguf_names(list(part.names), "llama", config).values()
    }
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in names.items()}
    blocks = {}
    for part, (kind, size, weights, _) in kinds.items():
        name = f"blk.0.{part}.weight"
        rows, columns = names[name]
        block = rng.integers(0, 256, (rows, columns // weights, size), dtype=np.uint8)
        scale = rng.uniform(0.01, 0.1, block.shape[:2]).astype(np.float16)[..., None].view(np.uint8)
        where = 208 if kind == "Q6_K" else 0
        block[..., where : where + 2] = scale
        if kind == "Q4_K":
            block[..., 2:4] = scale
        blocks[name] = block
        tensors[name] = block.reshape(rows, -1), gguf.GGMLQuantizationType[kind]
    write(tmp_path / "m.gguf", config, tensors, architecture="llama")
    params = loading.load_backbone(str(tmp_path), key=None).params["layer_0"]
    for part, ours, heads in (
        ("attn_q", params["attention"]["q_proj"], 4), ("attn_v", params["attention"]["v_proj"], 0),
        ("attn_k", params["attention"]["k_proj"], 2), ("ffn_up", params["mlp"]["up_proj"], 0),
    ):  # fmt: skip
        block = blocks[f"blk.0.{part}.weight"]
        oracle_of = kinds[part][3]
        expected = np.array([[oracle_of(b) for b in row] for row in block]).reshape(len(block), -1)
        kernel = np.asarray(ours["kernel"]).T
        if heads:  # rotary partners stand beside each other in the file
            kernel = as_llama_cpp_stores("attn", kernel, {"attn": heads})
        np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)


def test_an_unknown_way_to_cut_text_is_refused_rather_than_guessed(oracle, tmp_path):
    write(tmp_path / "m.gguf", oracle.config, {}, pre="klingon")
    with pytest.raises(ValueError, match="'klingon'"):
        tokenizers.from_gguf(tmp_path / "m.gguf")
