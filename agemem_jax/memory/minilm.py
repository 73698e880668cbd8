"""all-MiniLM-L6-v2 in Flax: a BERT encoder, mean pooling, and unit length.

The encoder enc(.) of section 3.2 with its published weights, read from a directory in
Hugging Face layout. Texts are grouped by length into a few static shapes, so that only a
handful of programs are ever compiled. Axis order: [text, token, dim].
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
import tokenizers
from jaxtyping import Array, Bool, Float, Int

MAX_TOKENS = 256  # longer texts are cut, as the model was published
_LENGTHS = (16, 32, 64, 128, MAX_TOKENS)
_BATCHES = (4, 32)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Shape of a BERT encoder, named as in its config.json."""

    vocab_size: int = 30522
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_json(cls, path: Path) -> "EncoderConfig":
        """Reads a Hugging Face config.json.

        Raises:
          ValueError: when the file describes something that this encoder is not.
        """
        values = json.loads(path.read_text(encoding="utf-8"))
        wanted = {
            "model_type": "bert",
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
        }
        for key, value in wanted.items():
            if values.get(key, value) != value:
                raise ValueError(
                    f"{path} has {key} '{values[key]}'; the MiniLM encoder reads '{value}'."
                )
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(
                f"{path} lacks {', '.join(missing)}; it should be the config.json of a BERT model."
            )
        return cls(**{name: values[name] for name in names})


# The encoder is small and its scores are compared with thresholds: full precision also on
# accelerators whose default is lower.
_Dense = functools.partial(nn.Dense, precision=jax.lax.Precision.HIGHEST)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by residual and layer norm."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "text token dim"], mask: Bool[Array, "text token"]
    ) -> Float[Array, "text token dim"]:
        config = self.config
        norm = functools.partial(
            nn.LayerNorm, epsilon=config.layer_norm_eps, use_fast_variance=False
        )
        heads = config.num_attention_heads
        split = (*x.shape[:2], heads, config.hidden_size // heads)
        query, key, value = (
            _Dense(config.hidden_size, name=name)(x).reshape(split)
            for name in ("query", "key", "value")
        )
        attended = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None, None, :])
        attended = _Dense(config.hidden_size, name="attention_output")(attended.reshape(x.shape))
        x = norm(name="attention_norm")(x + attended)
        hidden = _Dense(config.intermediate_size, name="intermediate")(x)
        hidden = _Dense(config.hidden_size, name="output")(nn.gelu(hidden, approximate=False))
        return norm(name="output_norm")(x + hidden)


class SentenceEncoder(nn.Module):
    """BERT, the mean over real tokens, and L2 normalisation."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self, token_ids: Int[Array, "text token"], mask: Bool[Array, "text token"]
    ) -> Float[Array, "text dim"]:
        """Unit-norm sentence vectors; `mask` is true for real tokens."""
        config = self.config
        embed = functools.partial(nn.Embed, features=config.hidden_size)
        positions = jnp.arange(token_ids.shape[1])
        x = embed(config.vocab_size, name="word_embeddings")(token_ids)
        x += embed(config.max_position_embeddings, name="position_embeddings")(positions)
        # Single sentences only: every token is of type 0.
        x += embed(config.type_vocab_size, name="type_embeddings")(jnp.zeros_like(token_ids))
        x = nn.LayerNorm(
            epsilon=config.layer_norm_eps, use_fast_variance=False, name="embeddings_norm"
        )(x)
        for layer in range(config.num_hidden_layers):
            x = EncoderLayer(config, name=f"layer_{layer}")(x, mask)
        weights = mask[:, :, None].astype(x.dtype)
        mean = (x * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1.0)
        return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


_SUBLAYERS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}


def params_from_tensors(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> dict[str, Any]:
    """Flax parameters from the tensors of a Hugging Face `BertModel`.

    Raises:
      ValueError: when a tensor is missing or has another shape than the config says.
    """

    def read(name: str) -> np.ndarray:
        if name not in tensors:
            raise ValueError(f"The MiniLM weights lack the tensor '{name}'.")
        return np.asarray(tensors[name], np.float32)

    def module(source: str) -> dict[str, np.ndarray]:
        weight, bias = read(f"{source}.weight"), read(f"{source}.bias")
        # torch keeps [out, in], Flax [in, out].
        return {"scale" if weight.ndim == 1 else "kernel": weight.T, "bias": bias}

    params: dict[str, Any] = {
        name: {"embedding": read(f"embeddings.{source}.weight")}
        for name, source in (
            ("word_embeddings", "word_embeddings"),
            ("position_embeddings", "position_embeddings"),
            ("type_embeddings", "token_type_embeddings"),
        )
    }
    params["embeddings_norm"] = module("embeddings.LayerNorm")
    for layer in range(config.num_hidden_layers):
        params[f"layer_{layer}"] = {
            name: module(f"encoder.layer.{layer}.{source}") for name, source in _SUBLAYERS.items()
        }
    _check_shapes(params, config)
    return params


def abstract_params(config: EncoderConfig = EncoderConfig()) -> Mapping[str, Any]:
    """Shapes and dtypes of the parameters, by default of all-MiniLM-L6-v2."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    return jax.eval_shape(SentenceEncoder(config).init, jax.random.key(0), tokens, mask)["params"]


def _check_shapes(params: Mapping[str, Any], config: EncoderConfig) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(config)):
        found: Any = params
        for key in path:
            found = found[key.key]
        if found.shape != leaf.shape:
            name = "/".join(key.key for key in path)
            raise ValueError(
                f"The MiniLM weights give {name} the shape {found.shape}; "
                f"config.json says {leaf.shape}."
            )


@functools.partial(jax.jit, static_argnames="config")
def encode_tokens(
    params: Mapping[str, Any],
    token_ids: Int[Array, "text token"],
    mask: Bool[Array, "text token"],
    *,
    config: EncoderConfig,
) -> Float[Array, "text dim"]:
    """`SentenceEncoder` as a jitted pure function of its parameters."""
    return SentenceEncoder(config).apply({"params": params}, token_ids, mask)


class MiniLMEmbedder:
    """An `Embedder` with the weights of all-MiniLM-L6-v2 (dim 384), on the default device.

    An accelerator encodes within a fraction of the host's time, but after what it was given
    before: where a chunk of decoding is under way, texts wait for its end, all of a call once.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        tokenizer: tokenizers.Tokenizer,
        config: EncoderConfig,
    ):
        self.config = config
        self.dim = config.hidden_size
        self._params = jax.device_put(params)
        # The file's own settings pad every text to 128 tokens and cut it there.
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=min(MAX_TOKENS, config.max_position_embeddings))
        tokenizer.encode_special_tokens = True  # a text may spell [SEP] and mean the letters
        self._tokenizer = tokenizer

    @classmethod
    def from_directory(cls, directory: str | Path) -> "MiniLMEmbedder":
        """Reads model.safetensors, tokenizer.json and config.json.

        Raises:
          FileNotFoundError: when one of the three is missing.
          ValueError: when one of them cannot be read as what it should be.
        """
        directory = Path(directory)
        for name in ("model.safetensors", "tokenizer.json", "config.json"):
            if not (directory / name).is_file():
                raise FileNotFoundError(
                    f"MiniLM's {name} is not in {directory}; fetch the weights of "
                    "all-MiniLM-L6-v2 there or name the directory that holds them."
                )
        config = EncoderConfig.from_json(directory / "config.json")
        try:
            tensors = safetensors.numpy.load_file(directory / "model.safetensors")
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"{directory / 'model.safetensors'} cannot be read ({error}); fetch it again."
            ) from error
        tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        return cls(params_from_tensors(tensors, config), tokenizer, config)

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        """Unit-norm rows; see `Embedder.embed`. Texts are cut at `MAX_TOKENS` tokens."""
        embeddings = np.zeros((len(texts), self.dim), np.float32)
        filled = [i for i, text in enumerate(texts) if text.strip()]
        encodings = self._tokenizer.encode_batch([texts[i] for i in filled])
        groups: dict[int, list[tuple[int, list[int]]]] = {}
        for i, encoding in zip(filled, encodings, strict=True):
            length = next(size for size in _LENGTHS if size >= len(encoding.ids))
            groups.setdefault(length, []).append((i, encoding.ids))
        pending = []  # dispatched before the first is read back
        for length, group in sorted(groups.items()):
            start = 0
            while start < len(group):
                size = _batch_size(len(group) - start)
                part = group[start : start + size]
                start += size
                token_ids = np.zeros((size, length), np.int32)
                mask = np.zeros((size, length), np.bool_)
                for row, (_, ids) in enumerate(part):
                    token_ids[row, : len(ids)] = ids
                    mask[row, : len(ids)] = True
                # A row without any token would make its softmax undefined.
                mask[len(part) :, 0] = True
                vectors = encode_tokens(self._params, token_ids, mask, config=self.config)
                vectors.copy_to_host_async()
                pending.append(([i for i, _ in part], vectors))
        for positions, vectors in pending:
            embeddings[positions] = np.asarray(vectors)[: len(positions)]
        return embeddings


def _batch_size(remaining: int) -> int:
    """The largest batch that `remaining` texts fill at least half, else the smallest."""
    return next((size for size in reversed(_BATCHES) if 2 * remaining >= size), _BATCHES[0])
