"""Reads a GGUF file into our configuration, parameters and tokenizer.

Quantised tensors are dequantised once, at loading. Tensor names, and in Llama's files the
order of rotary dimensions, differ from ours; both are translated here and nowhere else.
"""

import hashlib
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
from agemem_jax.models.hf_names import stored_parameters
from agemem_jax.models.rope import Rope

# Features of the architectures that are read.
_ARCHITECTURES = {"llama": {}, "qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True}}

# Words as Qwen2 and Llama 3 cut them: contractions, letters, digits, marks, white space.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# How text is cut before byte-pair merging, by `tokenizer.ggml.pre`. transformers' own GGUF
# conversion ignores this field and so cuts "  1" differently from the original tokenizer.
_PRE_TOKENIZERS = {
    "gpt-2": lambda: _byte_level(),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _byte_level()]
    ),
    "qwen2": lambda: _by_words(_WORDS % ""),
    "llama-bpe": lambda: _by_words(_WORDS % "{1,3}"),
}
_ADDED_TYPES = (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
_DIVISORS = "rope_freqs.weight"  # of the rotary frequencies
_LLAMA3_POSITIONS = 8192  # before the stretch, of every model that Llama 3's rule stretches
_END_FIELDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def open_gguf(path: str | os.PathLike) -> gguf.GGUFReader:
    """Opens a file and reads its metadata; tensors stay on disk until used.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not a complete GGUF file, or one part of a model.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no GGUF file {path}.")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{path} cannot be read as GGUF ({error}); it may be cut off, so fetch it again."
        ) from error
    parts = _value(reader, "split.count", 1)
    if parts > 1:
        raise ValueError(
            f"{path} is one of {parts} parts of a model; join them with llama.cpp's "
            "`llama-gguf-split --merge` and name the whole file."
        )
    return reader


def read_config(reader: gguf.GGUFReader) -> DecoderConfig:
    """The decoder's shape, from metadata.

    Raises:
      ValueError: the file holds another architecture, or lacks a field.
    """
    architecture = _value(reader, "general.architecture")
    if architecture not in _ARCHITECTURES:
        raise ValueError(
            f"The GGUF file holds a model of architecture {architecture!r}; "
            f"{', '.join(_ARCHITECTURES)} are read."
        )

    def value(name: str, default: Any = _REQUIRED) -> Any:
        return _value(reader, f"{architecture}.{name}", default)

    scaling = value("rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"The GGUF file scales RoPE by {scaling!r}; only 'none' is read.")
    width = value("embedding_length")
    heads = value("attention.head_count")
    head_dim = value("attention.key_length", width // heads)
    rotated = value("rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise ValueError(
            f"The GGUF file rotates {rotated} of a head's {head_dim} dimensions; only models that "
            "rotate all of them are read."
        )
    return DecoderConfig(
        vocab_size=len(_value(reader, "tokenizer.ggml.tokens")),
        num_layers=value("block_count"),
        width=width,
        num_heads=heads,
        num_kv_heads=value("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn_width=value("feed_forward_length"),
        rope=_rope(reader, value("rope.freq_base", 10_000.0), head_dim),
        # Stored as float32: the shortest decimal that means the same number is what was written.
        rms_eps=float(str(np.float32(value("attention.layer_norm_rms_epsilon")))),
        tied_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        max_positions=value("context_length"),
        **_ARCHITECTURES[architecture],
    )


def _rope(reader: gguf.GGUFReader, theta: float, head_dim: int) -> Rope:
    """RoPE, stretched as a tensor of divisors says: converters write down no more than that."""
    tensor = next((each for each in reader.tensors if each.name == _DIVISORS), None)
    if tensor is None:
        return Rope(theta=theta)
    divisors = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
    if divisors.shape != (head_dim // 2,) or not np.all(np.isfinite(divisors) & (divisors > 0)):
        raise ValueError(
            f"The GGUF file's {_DIVISORS} has shape {divisors.shape} and values from "
            f"{divisors.min(initial=np.inf)} on; it must hold a positive number for each of the "
            f"{head_dim // 2} rotations of a head."
        )
    if np.all(divisors == 1.0):
        return Rope(theta=theta)
    table = Rope(theta=theta, scaling="table", divisors=tuple(divisors.tolist()))
    factor = float(f"{divisors.max():.5g}")
    rule = Rope(theta=theta, scaling="llama3", factor=factor, original_positions=_LLAMA3_POSITIONS)
    found, ruled = table.frequencies(head_dim), rule.frequencies(head_dim)
    # A rule can be exported to Hugging Face's format, a table cannot.
    return rule if np.allclose(found, ruled, rtol=1e-5, atol=0.0) else table


def read_params(
    reader: gguf.GGUFReader, config: DecoderConfig, *, dtype: Any = "float32"
) -> PyTree:
    """Parameters of `config`, which `read_config` gave for the same file.

    Raises:
      ValueError: tensors are missing, unknown or misshapen; the sentence names them.
    """
    stored = stored_parameters(config)
    architecture = _value(reader, "general.architecture")
    names = _gguf_names([part.names[0] for part in stored.values()], architecture, config)
    shapes = {names[part.names[0]]: part.shape for part in stored.values()}
    found = {tensor.name: tensor for tensor in reader.tensors if tensor.name != _DIVISORS}
    wrong = [f"{name} is missing" for name in shapes if name not in found]
    wrong += [f"{name} is unknown" for name in found if name not in shapes]
    for name, shape in shapes.items():
        # GGUF lists the fastest axis first.
        listed = tuple(int(n) for n in reversed(found[name].shape)) if name in found else shape
        if listed != shape:
            wrong.append(f"{name} has shape {listed} instead of {shape}")
    if wrong:
        raise ValueError(f"The GGUF file does not hold the model it describes: {'; '.join(wrong)}.")
    flat = {}
    for path, part in stored.items():
        name = names[part.names[0]]
        array = gguf.quants.dequantize(found[name].data, found[name].tensor_type)
        array = np.asarray(array, np.float32).reshape(part.shape)
        if architecture == "llama" and name.endswith("attn_q.weight"):
            array = _halves(array, config.num_heads)
        elif architecture == "llama" and name.endswith("attn_k.weight"):
            array = _halves(array, config.num_kv_heads)
        flat[path] = jnp.asarray(array.T if part.transposed else array, dtype)
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _gguf_names(names: list[str], architecture: str, config: DecoderConfig) -> dict[str, str]:
    """Hugging Face's tensor names to GGUF's, by the gguf package's own table."""
    number = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    table = gguf.get_tensor_name_map(number, config.num_layers)
    return {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}


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
    # Llama 3 takes words that it knows whole, whether or not merges lead to them.
    whole = cut == "llama-bpe"
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=whole))
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[cut]()
    tokenizer.decoder = decoders.ByteLevel()
    types = _value(reader, "tokenizer.ggml.token_type")
    added = [
        # What is no control token, such as <tool_call>, is part of what models write.
        tokenizers.AddedToken(token, special=kind == gguf.TokenType.CONTROL, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in _ADDED_TYPES
    ]
    tokenizer.add_tokens(added)
    return tokenizer


def tokenizer_digest(reader: gguf.GGUFReader) -> str:
    """A hash of all that `read_tokenizer` reads, quick to compute."""
    digest = hashlib.sha256()
    for name, field in sorted(reader.fields.items()):
        if name.startswith("tokenizer.ggml."):
            size = sum(part.nbytes for part in field.parts)
            digest.update(reader.data[field.offset : field.offset + size])
    return digest.hexdigest()


def read_end_ids(reader: gguf.GGUFReader) -> tuple[int, ...]:
    """The tokens that end a text, as far as the file names them."""
    found = (_value(reader, f"tokenizer.ggml.{name}", None) for name in _END_FIELDS)
    return tuple(dict.fromkeys(each for each in found if each is not None))


def read_chat_template(reader: gguf.GGUFReader) -> str | None:
    """The chat template that the file carries, if any."""
    return _value(reader, "tokenizer.chat_template", None)


def _byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _by_words(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


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
