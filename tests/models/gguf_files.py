"""GGUF files as tests need them: written from a known model, and blocks read by definition."""

import gguf
import numpy as np

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


def write(
    path, config, tensors, *, kind=None, architecture="llama", pre="smollm", first="ab",
    last="c", types=None, fields=None,
):  # fmt: skip
    """`first` is the only token of two letters that merges; `types` are by token."""
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
    tokens = ["<|im_end|>", "a", "b", first, "Ġ", "ĠĠ", "1", "2", last]
    tokens += [f"<unused{index}>" for index in range(config.vocab_size - len(tokens))]
    writer.add_token_list(tokens)
    types = {"<|im_end|>": 3} | (types or {})
    writer.add_token_types([types.get(token, 1) for token in tokens])
    writer.add_token_merges([" ".join(first), "Ġ Ġ"])
    for name, value in (fields or {}).items():
        writer.add_uint32(name, value)
    for name, array in tensors.items():
        if isinstance(array, tuple):
            writer.add_tensor(name, array[0], raw_dtype=array[1])
        elif kind is not None and array.ndim == 2 and array.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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


def q5_0(block: np.ndarray) -> list[float]:
    """One block of 32 weights: a scale, a fifth bit each, and sixteen bytes of two nibbles."""
    d = float(block[:2].view(np.float16)[0])
    fifth = int(block[2:6].view(np.uint32)[0])
    nibbles = [int(b) & 15 for b in block[6:]] + [int(b) >> 4 for b in block[6:]]
    return [d * ((n | ((fifth >> i) & 1) << 4) - 16) for i, n in enumerate(nibbles)]


def q8_0(block: np.ndarray) -> list[float]:
    return (float(block[:2].view(np.float16)[0]) * block[2:].view(np.int8)).tolist()
