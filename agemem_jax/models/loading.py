"""Puts a backbone together: configuration, parameters and tokenizer.

A backbone is named by its registered name, by a local directory, or by a repository id of
the Hugging Face hub; what comes out does not tell which.
"""

import dataclasses
import functools
import importlib.resources
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
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
from agemem_jax.parallel import arrays

INITS = ("pretrained", "random")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A model that is ready to use, or one whose parameters are still where they are kept.

    Attributes:
      name: as asked for.
      config: of the decoder.
      params: base parameters; None where it was only opened.
      tokenizer: see `protocol.chat_formats.Tokenizer`.
      read_params: reads or draws the base parameters; nothing here holds what it gives.
    """

    name: str
    config: DecoderConfig
    params: PyTree | None
    tokenizer: transformers.PreTrainedTokenizerFast
    read_params: Callable[[], PyTree]


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


def load_backbone(name: str, **options: Any) -> Backbone:
    """Opens a backbone and reads its parameters; options and errors are those of `open_backbone`.

    Raises:
      FileNotFoundError: the weights are not there; the sentence tells how to get them.
    """
    backbone = open_backbone(name, **options)
    return dataclasses.replace(backbone, params=backbone.read_params())


def open_backbone(
    name: str,
    *,
    init: str = "pretrained",
    key: Key[Array, ""],
    param_dtype: str = "float32",
    place: Callable[[DecoderConfig], PyTree] | None = None,
    **changes: Any,
) -> Backbone:
    """A backbone without its parameters: who needs them reads them, and holds them alone.

    Args:
      name: a key of `BACKBONES`, a directory with config.json and *.safetensors or with one
        *.gguf, or a repository id.
      init: "pretrained" for the published or warmed-up parameters, "random" for new ones.
      key: what random parameters are drawn with.
      param_dtype: of the parameters, "float32" or "bfloat16".
      place: gives the sharding of every parameter; by default all go to the default device.
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
        config, read_params, tokenizer = _shipped(name, spec.shape)
    else:
        folder = _locate(name)
        files = sorted(folder.glob("*.gguf"))
        read = _read_gguf if files else _read_hugging_face
        config, read_params, tokenizer = read(files[0] if files else folder, param_dtype)
    config = dataclasses.replace(config, **changes)
    shardings = None if place is None else place(config)
    if pretrained:
        read = functools.partial(read_params, shardings)
    else:
        draw = jax.jit(functools.partial(decoder.init_params, config), out_shardings=shardings)
        read = functools.partial(draw, key)
    return Backbone(name, config, None, tokenizer, read)


def _locate(name: str) -> pathlib.Path:
    """The folder that holds a model's files."""
    spec = BACKBONES.get(name)
    if spec is None:
        return pathlib.Path(name) if os.path.isdir(name) else hub.download(name)
    if spec.weight_set is not None:
        return weights_cache.find_or_explain(spec.weight_set)
    return hub.download(spec.repository)


def _placed(params: PyTree, shardings: PyTree | None) -> PyTree:
    return params if shardings is None else arrays.place(params, shardings)


# Each gives the configuration, a function from shardings to parameters, and the tokenizer.


def _shipped(name: str, config: DecoderConfig):
    folder = assets(name)

    def read_params(shardings: PyTree | None) -> PyTree:
        path = folder / "warmup.safetensors"
        if not path.is_file():
            raise FileNotFoundError(
                f"The warmed-up weights of {name} are not at {path}; train them by a warm-up that "
                "starts from init 'random', and put them there."
            )
        params = weight_files.load_params(path, decoder.abstract_params(config))
        return _placed(params, shardings)

    return config, read_params, tokenizers.from_file(folder / "tokenizer.json")


def _read_gguf(path: pathlib.Path, dtype: str):
    reader = gguf_import.open_gguf(path)
    config = gguf_import.read_config(reader)
    tokenizer = tokenizers.from_gguf(path, reader)
    tokenizer.chat_template = gguf_import.read_chat_template(reader)

    def read_params(shardings: PyTree | None) -> PyTree:
        return _placed(gguf_import.read_params(reader, config, dtype=dtype), shardings)

    return config, read_params, tokenizer


def _read_hugging_face(folder: pathlib.Path, dtype: str):
    config = hf_config.read_config(folder)
    tokenizer = tokenizers.from_directory(folder)
    _check_tokenizer(folder, config, tokenizer)

    def read_params(shardings: PyTree | None) -> PyTree:
        return hf_import.read_params(folder, config, shardings=shardings, dtype=jnp.dtype(dtype))

    return config, read_params, tokenizer


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
