"""Reads a Llama-architecture GGUF file into our configuration, parameters and tokenizer.

Quantised tensors are dequantised to float32 once, at loading. Tensor names and the order
of rotary dimensions differ from ours; both are translated here and nowhere else.
"""

import os
from typing import Any

import flax.traverse_util
import gguf
import jax.numpy as jnp
import numpy as np
import tokenizers
from jaxtyping import Float, PyTree
from tokenizers import decoders, models, pre_tokenizers

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.rope import Rope

# GGUF name inside a block: (our path inside a layer, whether the matrix is transposed)
_LAYER_TENSORS = {
    "attn_norm.weight": ("attention_norm/scale", False),
    "attn_q.weight": ("attention/q_proj/kernel", True),
    "attn_k.weight": ("attention/k_proj/kernel", True),
    "attn_v.weight": ("attention/v_proj/kernel", True),
    "attn_output.weight": ("attention/o_proj/kernel", True),
    "ffn_norm.weight": ("mlp_norm/scale", False),
    "ffn_gate.weight": ("mlp/gate_proj/kernel", True),
    "ffn_up.weight": ("mlp/up_proj/kernel", True),
    "ffn_down.weight": ("mlp/down_proj/kernel", True),
}

# How text is cut before byte-pair merging, by `tokenizer.ggml.pre`. transformers' own GGUF
# conversion ignores this field and so cuts "  1" differently from the original tokenizer.
_PRE_TOKENIZERS = {
    "gpt-2": lambda: _byte_level(),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _byte_level()]
    ),
}
_SPECIAL_TYPES = (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)


def open_gguf(path: str | os.PathLike) -> gguf.GGUFReader:
    """Opens a file and reads its metadata; tensors stay on disk until used.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a complete GGUF file.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no GGUF file {path}.")
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{path} cannot be read as GGUF ({error}); it may be cut off, so fetch it again."
        ) from error


def read_config(reader: gguf.GGUFReader) -> DecoderConfig:
    """The decoder's shape, from metadata.

    Raises:
      ValueError: the file holds another architecture, or lacks a field.
    """
    architecture = _value(reader, "general.architecture")
    if architecture != "llama":
        raise ValueError(
            f"The GGUF file holds a model of architecture {architecture!r}; only 'llama' is read."
        )
    scaling = _value(reader, "llama.rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"The GGUF file scales RoPE by {scaling!r}; only 'none' is read.")
    width = _value(reader, "llama.embedding_length")
    heads = _value(reader, "llama.attention.head_count")
    head_dim = _value(reader, "llama.attention.key_length", width // heads)
    rotated = _value(reader, "llama.rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise ValueError(
            f"The GGUF file rotates {rotated} of a head's {head_dim} dimensions; only models that "
            "rotate all of them are read."
        )
    return DecoderConfig(
        vocab_size=len(_value(reader, "tokenizer.ggml.tokens")),
        num_layers=_value(reader, "llama.block_count"),
        width=width,
        num_heads=heads,
        num_kv_heads=_value(reader, "llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn_width=_value(reader, "llama.feed_forward_length"),
        rope=Rope(_value(reader, "llama.rope.freq_base", 10_000.0)),
        # Stored as float32: the shortest decimal that means the same number is what was written.
        rms_eps=float(str(np.float32(_value(reader, "llama.attention.layer_norm_rms_epsilon")))),
        tied_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        max_positions=_value(reader, "llama.context_length"),
    )


def read_params(reader: gguf.GGUFReader, config: DecoderConfig) -> PyTree:
    """Float32 parameters of `config`, which `read_config` gave for the same file.

    Raises:
      ValueError: tensors are missing, unknown or misshapen; the sentence names them.
    """
    wanted = _wanted(config)
    found = {tensor.name: tensor for tensor in reader.tensors}
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [f"{name} is unknown" for name in found if name not in wanted]
    for name, (_, shape, _) in wanted.items():
        # GGUF lists the fastest axis first.
        stored = tuple(int(n) for n in reversed(found[name].shape)) if name in found else shape
        if stored != shape:
            wrong.append(f"{name} has shape {stored} instead of {shape}")
    if wrong:
        raise ValueError(f"The GGUF file does not hold the model it describes: {'; '.join(wrong)}.")
    flat = {}
    for name, (path, shape, transposed) in wanted.items():
        tensor = found[name]
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        array = np.asarray(array, np.float32).reshape(shape)
        if name.endswith("attn_q.weight"):
            array = _halves(array, config.num_heads)
        elif name.endswith("attn_k.weight"):
            array = _halves(array, config.num_kv_heads)
        flat[path] = jnp.asarray(array.T if transposed else array)
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def read_tokenizer(reader: gguf.GGUFReader) -> tokenizers.Tokenizer:
    """The byte-level BPE tokenizer that the file carries.

    Raises:
      ValueError: the file carries a tokenizer of another kind.
    """
    kind = _value(reader, "tokenizer.ggml.model")
    cut = _value(reader, "tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or cut not in _PRE_TOKENIZERS:
        raise ValueError(
            f"The GGUF file carries a tokenizer of model {kind!r} and pre-tokenizer {cut!r}; model "
            f"'gpt2' with one of {', '.join(_PRE_TOKENIZERS)} is read."
        )
    tokens = _value(reader, "tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in _value(reader, "tokenizer.ggml.merges")]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[cut]()
    tokenizer.decoder = decoders.ByteLevel()
    types = _value(reader, "tokenizer.ggml.token_type")
    special = [t for t, kind in zip(tokens, types, strict=True) if kind in _SPECIAL_TYPES]
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, special=True, normalized=False) for token in special]
    )
    return tokenizer


def _byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _wanted(config: DecoderConfig) -> dict[str, tuple[str, tuple[int, ...], bool]]:
    """GGUF name to (our path, shape as stored, whether we hold the transpose)."""
    width, ffn = config.width, config.ffn_width
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    table = (config.vocab_size, width)
    wanted = {"token_embd.weight": ("embedding", table, False)}
    shapes = {
        "attn_norm.weight": (width,),
        "attn_q.weight": (queries, width),
        "attn_k.weight": (keys, width),
        "attn_v.weight": (keys, width),
        "attn_output.weight": (width, queries),
        "ffn_norm.weight": (width,),
        "ffn_gate.weight": (ffn, width),
        "ffn_up.weight": (ffn, width),
        "ffn_down.weight": (width, ffn),
    }
    for index in range(config.num_layers):
        for name, (path, transposed) in _LAYER_TENSORS.items():
            wanted[f"blk.{index}.{name}"] = (f"layer_{index}/{path}", shapes[name], transposed)
    wanted["output_norm.weight"] = ("final_norm/scale", (width,), False)
    if not config.tied_embeddings:
        wanted["output.weight"] = ("output", table, False)
    return wanted


def _halves(
    matrix: Float[np.ndarray, "outputs inputs"], heads: int
) -> Float[np.ndarray, "outputs inputs"]:
    """Orders the rows of every head as two halves, as `rope.rotate` pairs them.

    GGUF's Llama files keep the two partners of a rotation next to each other.
    """
    outputs, inputs = matrix.shape
    pairs = matrix.reshape(heads, outputs // heads // 2, 2, inputs)
    return pairs.swapaxes(1, 2).reshape(outputs, inputs)


_REQUIRED = object()


def _value(reader: gguf.GGUFReader, name: str, default: Any = _REQUIRED) -> Any:
    field = reader.get_field(name)
    if field is not None:
        return field.contents()
    if default is _REQUIRED:
        raise ValueError(f"The GGUF file has no field {name}.")
    return default
