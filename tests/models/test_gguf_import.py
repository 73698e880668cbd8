"""GGUF files written by the gguf package from a known model give that model back."""

import gguf
import numpy as np
import pytest

from agemem_jax.models import decoder, gguf_import, tokenizers
from agemem_jax.models.decoder import Weights
from tests.models.conftest import make_oracle

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def as_llama_cpp_stores(name: str, array: np.ndarray, heads: dict[str, int]) -> np.ndarray:
    """Query and key rows with rotary partners beside each other: 0, d/2, 1, d/2 + 1, ..."""
    for part, count in heads.items():
        if part in name:
            half = array.shape[0] // count // 2
            order = [
                head * 2 * half + offset + which * half
                for head in range(count)
                for offset in range(half)
                for which in range(2)
            ]
            return array[order]
    return array


def tensors_of(oracle) -> dict[str, np.ndarray]:
    tensors = {}
    for name, weight in oracle.model.state_dict().items():
        array = weight.numpy()
        if name == "model.embed_tokens.weight":
            tensors["token_embd.weight"] = array
        elif name == "model.norm.weight":
            tensors["output_norm.weight"] = array
        elif name == "lm_head.weight":
            if not oracle.config.tied_embeddings:
                tensors["output.weight"] = array
        else:
            _, _, index, rest = name.split(".", 3)
            module, kind = rest.rsplit(".", 1)
            if not (oracle.config.qkv_bias or oracle.config.qk_norm):  # Llama's files only
                heads = {"q_proj": 4, "k_proj": 2}
                array = as_llama_cpp_stores(module, array, heads)
            tensors[f"blk.{index}.{_NAMES[module]}.{kind}"] = array
    return tensors


def write(path, config, tensors, *, kind=None, architecture="llama", pre="smollm"):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    # "Ġ" stands for a space. Two spaces merge into one token, which the cut before a
    # digit decides about.
    tokens = ["<|im_end|>", "a", "b", "ab", "Ġ", "ĠĠ", "1", "2"]
    tokens += [f"<unused{index}>" for index in range(config.vocab_size - len(tokens))]
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b", "Ġ Ġ"])
    for name, array in tensors.items():
        if kind is not None and array.ndim == 2 and array.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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


def scales_and_minima(packed: np.ndarray) -> tuple[list[int], list[int]]:
    """Twelve bytes of Q4_K: eight scales and eight minima of six bits each."""
    scales, minima = [], []
    for j in range(8):
        if j < 4:
            scales.append(packed[j] & 63)
            minima.append(packed[j + 4] & 63)
        else:
            scales.append((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4))
            minima.append((packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    return scales, minima


def q4_k(block: np.ndarray) -> list[float]:
    """One block of 256 weights, read off the format's description one by one."""
    d, dmin = block[:4].view(np.float16).astype(np.float64)
    scales, minima = scales_and_minima([int(b) for b in block[4:16]])
    values = []
    for group in range(8):
        for i in range(32):
            byte = int(block[16 + 32 * (group // 2) + i])
            nibble = byte & 15 if group % 2 == 0 else byte >> 4
            values.append(d * scales[group] * nibble - dmin * minima[group])
    return values


def q6_k(block: np.ndarray) -> list[float]:
    """Likewise: four low bits, two high bits, and a signed scale for every 16 weights."""
    low, high, scales = block[:128], block[128:192], block[192:208].view(np.int8)
    d = float(block[208:210].view(np.float16)[0])
    values = [0.0] * 256
    for half in range(2):
        for i in range(32):
            top = int(high[32 * half + i])
            first, second = int(low[64 * half + i]), int(low[64 * half + 32 + i])
            for part, nibble in enumerate((first & 15, second & 15, first >> 4, second >> 4)):
                six_bits = nibble | ((top >> (2 * part)) & 3) << 4
                index = 128 * half + 32 * part + i
                values[index] = d * int(scales[index // 16]) * (six_bits - 32)
    return values


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
    tensors["rope_freqs.weight"] = np.ones(4, np.float32)
    tensors["blk.0.attn_k.weight"] = np.ones((24, 32), np.float32)
    write(tmp_path / "m.gguf", oracle.config, tensors)
    reader = gguf_import.open_gguf(tmp_path / "m.gguf")
    with pytest.raises(ValueError) as error:
        gguf_import.read_params(reader, gguf_import.read_config(reader))
    for part in (
        "blk.1.ffn_up.weight is missing",
        "rope_freqs.weight is unknown",
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


def test_an_unknown_way_to_cut_text_is_refused_rather_than_guessed(oracle, tmp_path):
    write(tmp_path / "m.gguf", oracle.config, {}, pre="klingon")
    with pytest.raises(ValueError, match="'klingon'"):
        tokenizers.from_gguf(tmp_path / "m.gguf")
