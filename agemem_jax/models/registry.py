"""Backbones by name: configuration, weights, tokenizer and chat format together.

A backbone is a row of `BACKBONES`. Those with a shape of their own ship with the package;
the others are read from weights that `weights_cache` fetched.
"""

import dataclasses
import importlib.resources
import pathlib

import transformers
from jaxtyping import Array, Key, PyTree

from agemem_jax.models import decoder, gguf_import, hf_config, hf_import, tokenizers, weights_cache
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.rope import Rope
from agemem_jax.models.weight_files import load_params, save_params

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneSpec",
    "assets",
    "load_backbone",
    "load_params",
    "save_params",
]

INITS = ("pretrained", "random")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A model that is ready to use.

    Attributes:
      name: as registered.
      config: of the decoder.
      params: float32 base parameters.
      tokenizer: see `protocol.chat_formats.Tokenizer`.
      chat_format_name: a key of `protocol.chat_formats.CHAT_FORMATS`.
    """

    name: str
    config: DecoderConfig
    params: PyTree
    tokenizer: transformers.PreTrainedTokenizerFast
    chat_format_name: str


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """How a backbone is put together.

    Attributes:
      chat_format_name: a key of `protocol.chat_formats.CHAT_FORMATS`.
      shape: the decoder's shape, for a backbone that ships with the package; its vocabulary
        size is that of its tokenizer.
      weight_set: a key of `weights_cache.WEIGHT_SETS`, for one that is fetched.
    """

    chat_format_name: str
    shape: DecoderConfig | None = None
    weight_set: str | None = None


BACKBONES = {
    "tiny": BackboneSpec(
        chat_format_name="chatml",
        shape=DecoderConfig(
            vocab_size=0,
            num_layers=4,
            width=128,
            num_heads=2,
            num_kv_heads=2,
            head_dim=64,
            ffn_width=256,
            # Slow rotations: names are matched over hundreds of tokens. At 10,000 copying
            # is not learned within minutes.
            rope=Rope(theta=1_000_000.0),
            tied_embeddings=True,
            max_positions=4096,
        ),
    ),
    "smollm2-135m": BackboneSpec(chat_format_name="chatml", weight_set="smollm2-135m"),
    "qwen2.5-7b-instruct": BackboneSpec(
        chat_format_name="chatml", weight_set="qwen2.5-7b-instruct"
    ),
}


def assets(name: str) -> pathlib.Path:
    """The folder inside the package that holds what ships with a backbone."""
    return pathlib.Path(str(importlib.resources.files("agemem_jax.models") / "assets" / name))


def load_backbone(
    name: str,
    *,
    compute_dtype: str = "float32",
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    init: str = "pretrained",
    key: Key[Array, ""],
) -> Backbone:
    """Puts a backbone together.

    Args:
      name: a key of `BACKBONES`.
      compute_dtype: of activations, "float32" or "bfloat16"; parameters stay float32.
      lora_rank: written into the configuration; `decoder.init_lora` makes the matrices.
      lora_alpha: likewise.
      init: "pretrained" for the published or warmed-up parameters, "random" for new ones.
      key: what random parameters are drawn with.

    Raises:
      ValueError: the name, the dtype or `init` is unknown, or the weights do not fit.
      FileNotFoundError: the weights are not there; the sentence tells how to get them.
    """
    if name not in BACKBONES:
        raise ValueError(f"No backbone is called {name!r}; known: {', '.join(BACKBONES)}.")
    if init not in INITS:
        raise ValueError(f"init is {init!r}; it must be one of {', '.join(INITS)}.")
    spec = BACKBONES[name]
    changes = {
        "compute_dtype": compute_dtype,
        "lora_rank": lora_rank,
        "lora_alpha": lora_alpha,
    }
    pretrained = init == "pretrained"
    if spec.shape is not None:
        config, params, tokenizer = _shipped(name, spec.shape, pretrained, key)
    else:
        config, params, tokenizer = _fetched(spec.weight_set, pretrained)
    config = dataclasses.replace(config, **changes)
    if params is None:
        params = decoder.init_params(config, key)
    return Backbone(name, config, params, tokenizer, spec.chat_format_name)


def _shipped(name: str, shape: DecoderConfig, pretrained: bool, key: Key[Array, ""]):
    folder = assets(name)
    tokenizer = tokenizers.from_file(folder / "tokenizer.json")
    config = dataclasses.replace(shape, vocab_size=len(tokenizer))
    if not pretrained:
        return config, None, tokenizer
    path = folder / "warmup.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"The warmed-up weights of {name} are not at {path}; train them by a warm-up that "
            "starts from init 'random', and put them there."
        )
    return config, load_params(path, decoder.abstract_params(config)), tokenizer


def _fetched(weight_set: str, pretrained: bool):
    folder = weights_cache.find_or_explain(weight_set)
    files = sorted(folder.glob("*.gguf"))
    if not files:
        config = hf_config.read_config(folder)
        params = hf_import.read_params(folder, config) if pretrained else None
        return config, params, tokenizers.from_file(folder / "tokenizer.json")
    reader = gguf_import.open_gguf(files[0])
    config = gguf_import.read_config(reader)
    params = gguf_import.read_params(reader, config) if pretrained else None
    return config, params, tokenizers.from_gguf(files[0], reader)
