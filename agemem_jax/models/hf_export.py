"""Writes a model as a Hugging Face directory, or its LoRA matrices as a PEFT adapter.

What is written loads in transformers, vLLM and whatever else reads these formats.
A directory appears whole, by one rename, or not at all.
"""

import contextlib
import copy
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import flax.traverse_util
import huggingface_hub
import jax
import ml_dtypes
import numpy as np
import safetensors.numpy
import transformers
from jaxtyping import PyTree

from agemem_jax.models import hf_config, hub
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.hf_names import lora_module, stored_parameters

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
_METADATA = {"format": "pt"}  # transformers looks for it


def export_model(
    directory: str | os.PathLike,
    config: DecoderConfig,
    params: PyTree,
    tokenizer: transformers.PreTrainedTokenizerFast,
    *,
    stop_id: int,
    end_ids: Sequence[int] = (),
    dtype: str = "bfloat16",
    max_shard_size: int | str = "5GB",
) -> None:
    """Writes config, weights in shards, tokenizer with chat template, generation config.

    Args:
      directory: is made; it must not hold anything yet.
      config: of the decoder; LoRA and precision are no part of what is written.
      params: base parameters, LoRA merged (`decoder.merge_lora`).
      tokenizer: of the backbone, its `chat_template` set.
      stop_id: the token that ends an assistant's turn.
      end_ids: further tokens that end a response.
      dtype: of the written weights: a key of `DTYPES`.
      max_shard_size: of one file, in bytes or as text such as "5GB".

    Raises:
      FileExistsError: the directory holds something.
      ValueError: the dtype is unknown, or no family of Hugging Face is this decoder.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}.")
    tokens = {
        "eos_token_id": stop_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": stop_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    }
    values = hf_config.to_values(config, **tokens) | {"dtype": dtype}
    with _made_whole(directory) as folder:
        _write_json(folder / "config.json", values)
        _write_weights(folder, config, params, DTYPES[dtype], max_shard_size)
        _with_roles(tokenizer, stop_id).save_pretrained(folder)
        ends = list(dict.fromkeys((stop_id, *end_ids)))
        tokens["eos_token_id"] = ends if len(ends) > 1 else stop_id
        transformers.GenerationConfig(do_sample=True, temperature=1.0, **tokens).save_pretrained(
            folder
        )


def _with_roles(
    tokenizer: transformers.PreTrainedTokenizerFast, stop_id: int
) -> transformers.PreTrainedTokenizerFast:
    """A copy that names its end and its padding; trainers stop where it does not."""
    tokenizer = copy.deepcopy(tokenizer)
    stop = tokenizer.convert_ids_to_tokens(stop_id)
    for role in ("eos_token", "pad_token"):
        if getattr(tokenizer, role) is None:
            setattr(tokenizer, role, stop)
    return tokenizer


def export_adapter(
    directory: str | os.PathLike, config: DecoderConfig, lora: PyTree, *, base_model: str
) -> None:
    """Writes LoRA matrices as a PEFT adapter, in float32.

    Where the base model's files are here and hold a text model inside one that reads images,
    the adapter is for that whole model, as transformers loads it from them.

    Args:
      directory: is made; it must not hold anything yet.
      config: of the decoder, `lora_rank` at least 1.
      lora: the matrices.
      base_model: repository id or path of the model that the adapter belongs to.

    Raises:
      FileExistsError: the directory holds something.
    """
    flat = flax.traverse_util.flatten_dict(lora, sep="/")
    modules = sorted({path.rpartition("/")[0] for path in flat})
    inside = "language_model." if _is_around_text_part(base_model) else ""
    targets: list[str] | str = sorted({path.split("/")[-1] for path in modules})
    if inside:  # what reads images has modules of the same names
        targets = rf".*\.language_model\..*\.({'|'.join(targets)})"
    tensors = {}
    for path in modules:
        name = f"base_model.model.{lora_module(path, inside=inside)}"
        for ours, theirs in (("a", "lora_A"), ("b", "lora_B")):
            matrix = np.asarray(jax.device_get(flat[f"{path}/{ours}"]), np.float32)
            tensors[f"{name}.{theirs}.weight"] = np.ascontiguousarray(matrix.T)
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with _made_whole(directory) as folder:
        _write_json(folder / "adapter_config.json", values)
        safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors", _METADATA)


def _is_around_text_part(base_model: str) -> bool:
    if not os.path.isdir(base_model) and hub.is_repository(base_model):
        config = hub.cached_file(base_model, "config.json")
        return config is not None and hf_config.is_around_text_part(config.parent)
    return hf_config.is_around_text_part(base_model)


def _write_weights(folder, config, params, dtype, max_shard_size) -> None:
    """One shard after the other: no more than one is in memory a second time."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    where = {
        name: (path, part, row)
        for path, part in stored_parameters(config).items()
        for row, name in enumerate(part.names)
    }
    split = huggingface_hub.split_state_dict_into_shards_factory(
        {name: part.shape for name, (_, part, _) in where.items()},
        get_storage_size=lambda shape: int(np.prod(shape)) * np.dtype(dtype).itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for file, names in split.filename_to_tensors.items():
        tensors = {}
        for name in names:
            path, part, row = where[name]
            array = flat[path][row] if part.stacked else flat[path]
            array = np.asarray(jax.device_get(array)).astype(dtype)
            tensors[name] = np.ascontiguousarray(array.T if part.transposed else array)
        safetensors.numpy.save_file(tensors, folder / file, _METADATA)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _write_json(folder / "model.safetensors.index.json", index)


def _write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _made_whole(directory: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder that becomes `directory` when the block ends well, and nothing otherwise."""
    target = pathlib.Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists already; name a directory that does not.")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield folder
        folder.chmod(0o755)  # a temporary directory is private
        if target.exists():
            target.rmdir()
        folder.rename(target)
    finally:
        if folder.exists():
            shutil.rmtree(folder)
