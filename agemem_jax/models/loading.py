"""Puts a backbone together: configuration, parameters and tokenizer.

A backbone is named by its registered name, by a local directory or GGUF file, or by a
repository id of the Hugging Face hub; what comes out does not tell which.
"""

import dataclasses
import functools
import importlib.resources
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import transformers
from absl import logging
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
_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")  # of a GGUF model in several files


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A model that is ready to use, or one whose parameters are still where they are kept.

    Attributes:
      name: as asked for.
      config: of the decoder.
      params: base parameters; None where it was only opened.
      tokenizer: see `protocol.chat_formats.Tokenizer`.
      read_params: reads or draws the base parameters; nothing here holds what it gives.
      end_ids: tokens that end a text, as far as the model's files name them.
    """

    name: str
    config: DecoderConfig
    params: PyTree | None
    tokenizer: transformers.PreTrainedTokenizerFast
    read_params: Callable[[], PyTree]
    end_ids: tuple[int, ...] = ()


def check_name(name: str) -> None:
    """Refuses what is neither registered, nor a directory or GGUF file, nor like a repository id.

    Raises:
      ValueError: in one sentence.
    """
    if name in BACKBONES or os.path.isdir(name):
        return
    if _names_gguf(name):
        if not os.path.isfile(name):
            raise ValueError(f"backbone is {name!r}, but there is no such GGUF file.")
    elif not hub.is_repository(name):
        raise ValueError(
            f"backbone is {name!r}, which is neither a directory nor a GGUF file nor a repository "
            f"id (owner/name) nor registered: {', '.join(BACKBONES)}."
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
        *.gguf, the path of a *.gguf, or a repository id.
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
        config, read_params, tokenizer, end_ids = _shipped(name, spec.shape)
    else:
        files = _choose_format(_locate(name))
        if files.is_dir():
            read = _read_hugging_face(files, param_dtype, pretrained=pretrained)
        else:
            read = _read_gguf(files, param_dtype)
        config, read_params, tokenizer, end_ids = read
    config = dataclasses.replace(config, **changes)
    shardings = None if place is None else place(config)
    if pretrained:
        read = functools.partial(read_params, shardings)
    else:
        draw = jax.jit(functools.partial(decoder.init_params, config), out_shardings=shardings)
        read = functools.partial(draw, key)
    return Backbone(name, config, None, tokenizer, read, end_ids)


def _locate(name: str) -> pathlib.Path:
    """The folder that holds a model's files, or its only file."""
    spec = BACKBONES.get(name)
    if spec is None:
        here = os.path.isdir(name) or _names_gguf(name)
        return pathlib.Path(name) if here else hub.download(name)
    if spec.weight_set is not None:
        return weights_cache.find_or_explain(spec.weight_set)
    return hub.download(spec.repository)


def _names_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _choose_format(path: pathlib.Path) -> pathlib.Path:
    """A folder in Hugging Face's format, or the GGUF file that is meant.

    Raises:
      ValueError: a folder holds several GGUF files.
    """
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.gguf"))
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        if files:
            logging.info("Reading the safetensors of %s, not %s.", path, files[0].name)
        return path
    if len({_PART.sub("", file.name) for file in files}) > 1:
        raise ValueError(
            f"{path} holds several GGUF files ({', '.join(file.name for file in files)}); name "
            f"one as the backbone, such as {files[0]}."
        )
    return files[0] if files else path


def _placed(params: PyTree, shardings: PyTree | None) -> PyTree:
    return params if shardings is None else arrays.place(params, shardings)


# Each gives the configuration, a function from shardings to parameters, the tokenizer, and the
# tokens that end a text.


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

    return config, read_params, tokenizers.from_file(folder / "tokenizer.json"), ()


def _read_gguf(path: pathlib.Path, dtype: str):
    reader = gguf_import.open_gguf(path)
    config = gguf_import.read_config(reader)
    tokenizer = tokenizers.from_gguf(path, reader)
    tokenizer.chat_template = gguf_import.read_chat_template(reader)

    def read_params(shardings: PyTree | None) -> PyTree:
        return _placed(gguf_import.read_params(reader, config, dtype=dtype), shardings)

    return config, read_params, tokenizer, gguf_import.read_end_ids(reader)


def _read_hugging_face(folder: pathlib.Path, dtype: str, *, pretrained: bool):
    config = hf_config.read_config(folder)
    tokenizer = tokenizers.from_directory(folder)
    _check_tokenizer(folder, config, tokenizer)
    if pretrained:
        config = hf_import.untied_by_files(folder, config)

    def read_params(shardings: PyTree | None) -> PyTree:
        return hf_import.read_params(folder, config, shardings=shardings, dtype=jnp.dtype(dtype))

    ends = dict.fromkeys(id for ids in hf_config.end_tokens(folder).values() for id in ids)
    return config, read_params, tokenizer, tuple(id for id in ends if id < config.vocab_size)


def _check_tokenizer(folder: pathlib.Path, config: DecoderConfig, tokenizer) -> None:
    """Stops where text gives ids that the model lacks, or texts end by what is no special token.

    Special tokens may lie beyond what the model embeds, as those that stand for images do
    where a model reads none: no contents give their ids.
    """
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    largest = max(token for token in tokenizer.get_vocab().values() if token not in special)
    if largest >= config.vocab_size:
        raise ValueError(
            f"The tokenizer in {folder} has token ids up to {largest}, but the model embeds only "
            f"{config.vocab_size}; they do not belong together."
        )
    wrong = [end for end in hf_config.end_tokens(folder)["config.json"] if end not in special]
    if wrong:
        raise ValueError(
            f"{folder / 'config.json'} ends texts by token {wrong[0]}, which is not a special "
            "token of the tokenizer beside it; they do not belong together."
        )
