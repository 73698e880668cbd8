"""Puts a backbone together: configuration, parameters and tokenizer.

A backbone is named by its registered name, by a local directory, or by a repository id of
the Hugging Face hub; what comes out does not tell which.
"""

import dataclasses
import importlib.resources
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import transformers
from jaxtyping import Array, Key, PyTree

from agemem_jax.models import (
    decoder,
    gguf_import,
    hf_config,
    hf_import,
    hub,
    tokenizers,
    weight_files,
    weights_cache,
)
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.registry import BACKBONES

INITS = ("pretrained", "random")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A model that is ready to use.

    Attributes:
      name: as asked for.
      config: of the decoder.
      params: base parameters.
      tokenizer: see `protocol.chat_formats.Tokenizer`.
    """

    name: str
    config: DecoderConfig
    params: PyTree
    tokenizer: transformers.PreTrainedTokenizerFast


def check_name(name: str) -> None:
    """Refuses what is neither registered, nor a directory, nor like a repository id.

    Raises:
      ValueError: in one sentence.
    """
    if name not in BACKBONES and not os.path.isdir(name) and not hub.is_repository(name):
        raise ValueError(
            f"backbone is {name!r}, which is neither a directory nor a repository id "
            f"(owner/name) nor registered: {', '.join(BACKBONES)}."
        )


def assets(name: str) -> pathlib.Path:
    """The folder inside the package that holds what ships with a backbone."""
    return pathlib.Path(str(importlib.resources.files("agemem_jax.models") / "assets" / name))


def load_backbone(
    name: str,
    *,
    init: str = "pretrained",
    key: Key[Array, ""],
    param_dtype: str = "float32",
    **changes: Any,
) -> Backbone:
    """Loads a backbone.

    Args:
      name: a key of `BACKBONES`, a directory with config.json and *.safetensors or with one
        *.gguf, or a repository id.
      init: "pretrained" for the published or warmed-up parameters, "random" for new ones.
      key: what random parameters are drawn with.
      param_dtype: of the parameters, "float32" or "bfloat16".
      **changes: fields of the decoder's configuration: precision and LoRA.

    Raises:
      ValueError: the name or an option is unknown, or files do not fit each other.
      FileNotFoundError: the weights are not there; the sentence tells how to get them.
      ConnectionError: they are not there, and the hub did not give them.
    """
    check_name(name)
    if init not in INITS:
        raise ValueError(f"init is {init!r}; it must be one of {', '.join(INITS)}.")
    pretrained = init == "pretrained"
    spec = BACKBONES.get(name)
    if spec is not None and spec.repository is None:
        config, params, tokenizer = _shipped(name, spec.shape, pretrained)
    else:
        folder = _locate(name)
        files = sorted(folder.glob("*.gguf"))
        read = _read_gguf if files else _read_hugging_face
        config, params, tokenizer = read(files[0] if files else folder, pretrained, param_dtype)
    config = dataclasses.replace(config, **changes)
    if params is None:
        params = decoder.init_params(config, key)
    return Backbone(name, config, params, tokenizer)


def _locate(name: str) -> pathlib.Path:
    """The folder that holds a model's files."""
    spec = BACKBONES.get(name)
    if spec is None:
        return pathlib.Path(name) if os.path.isdir(name) else hub.download(name)
    if spec.weight_set is not None:
        return weights_cache.find_or_explain(spec.weight_set)
    return hub.download(spec.repository)


def _shipped(name: str, config: DecoderConfig, pretrained: bool):
    folder = assets(name)
    tokenizer = tokenizers.from_file(folder / "tokenizer.json")
    if not pretrained:
        return config, None, tokenizer
    path = folder / "warmup.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"The warmed-up weights of {name} are not at {path}; train them by a warm-up that "
            "starts from init 'random', and put them there."
        )
    return config, weight_files.load_params(path, decoder.abstract_params(config)), tokenizer


def _read_gguf(path: pathlib.Path, pretrained: bool, dtype: str):
    reader = gguf_import.open_gguf(path)
    config = gguf_import.read_config(reader)
    params = gguf_import.read_params(reader, config, dtype=dtype) if pretrained else None
    tokenizer = tokenizers.from_gguf(path, reader)
    tokenizer.chat_template = gguf_import.read_chat_template(reader)
    return config, params, tokenizer


def _read_hugging_face(folder: pathlib.Path, pretrained: bool, dtype: str):
    config = hf_config.read_config(folder)
    tokenizer = tokenizers.from_directory(folder)
    _check_tokenizer(folder, config, tokenizer)
    params = hf_import.read_params(folder, config, dtype=jnp.dtype(dtype)) if pretrained else None
    return config, params, tokenizer


def _check_tokenizer(folder: pathlib.Path, config: DecoderConfig, tokenizer) -> None:
    """Stops where the tokenizer gives ids that the model lacks, or ends turns by others."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= config.vocab_size:
        raise ValueError(
            f"The tokenizer in {folder} has token ids up to {largest}, but the model embeds only "
            f"{config.vocab_size}; they do not belong together."
        )
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ends = values.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    if ends and not special.issuperset(ends):
        wrong = [end for end in ends if end not in special]
        raise ValueError(
            f"{folder / 'config.json'} ends texts by token {wrong[0]}, which is not a special "
            "token of the tokenizer beside it; they do not belong together."
        )
