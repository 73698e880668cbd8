"""Reads the parameters of a Hugging Face model directory (*.safetensors).

Files are memory-mapped, one tensor at a time, and each device is handed the slice that
it will hold in the dtype that it will hold it in: the host never has a second copy of the
model.
"""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
from jaxtyping import PyTree

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.hf_names import Stored, stored_parameters

# Beside the text model in checkpoints that read images as well.
_TEXT_PREFIXES = ("", "language_model.", "model.language_model.")
_NOT_TEXT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.",
             "model.multi_modal_projector.")  # fmt: skip


def read_params(
    directory: str | os.PathLike,
    config: DecoderConfig,
    *,
    shardings: PyTree | None = None,
    dtype: Any = np.float32,
) -> PyTree:
    """The parameters of `config`, from every safetensors file of the directory.

    Args:
      directory: holds *.safetensors, and their index where there are several.
      config: what `hf_config.read_config` gave for the same directory.
      shardings: where each parameter goes, in the structure of the parameters; by default
        all go to the default device.
      dtype: of the parameters, whatever the files hold.

    Raises:
      FileNotFoundError: there is no such file, or the index names one that is not there.
      ValueError: a file is damaged, or tensors are missing, unknown or misshapen; the
        sentence names them.
    """
    found = _find_tensors(pathlib.Path(directory))
    stored = stored_parameters(config)
    found = _check(found, stored, config, where=os.fspath(directory))
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = {} if shardings is None else flax.traverse_util.flatten_dict(shardings, sep="/")
    flat = {}
    # The largest first, while least else is in memory.
    for path in sorted(stored, key=lambda path: -math.prod(stored[path].held_shape)):
        part = stored[path]
        shape = part.held_shape

        def read(index, part=part, shape=shape):
            return _read_slice(found, part, shape, index, dtype)

        flat[path] = jax.make_array_from_callback(shape, places.get(path, default), read)
    return flax.traverse_util.unflatten_dict({path: flat[path] for path in stored}, sep="/")


def from_state(state: Mapping[str, Any], config: DecoderConfig, *, where: str) -> PyTree:
    """Float32 parameters out of a state dict's arrays; `where` names it in errors.

    Raises:
      ValueError: tensors are missing, unknown or misshapen; the sentence names them.
    """
    stored = stored_parameters(config)
    shapes = {name: (tuple(array.shape), name) for name, array in state.items()}
    found = _check(shapes, stored, config, where=where)
    flat = {}
    for path, part in stored.items():
        arrays = [np.asarray(state[found[name]], np.float32) for name in part.names]
        arrays = [array.T if part.transposed else array for array in arrays]
        flat[path] = jax.numpy.asarray(np.stack(arrays) if part.stacked else arrays[0])
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _find_tensors(directory: pathlib.Path) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Tensor names to (shape, (file, name in it))."""
    paths = sorted(directory.glob("*.safetensors"))
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        absent = [name for name in named if not (directory / name).is_file()]
        if absent:
            raise FileNotFoundError(
                f"{directory} lacks {', '.join(absent)}, which {index.name} names; the download "
                "is not complete."
            )
        paths = [directory / name for name in named]
    if not paths:
        raise FileNotFoundError(f"There is no safetensors file in {directory}.")
    found = {}
    for path in paths:
        with _open(path) as file:
            for name in file.keys():  # noqa: SIM118, it is not a dictionary
                found[name] = tuple(file.get_slice(name).get_shape()), (path, name)
    return found


@contextlib.contextmanager
def _open(path: pathlib.Path):
    try:
        with safetensors.safe_open(path, "numpy") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}); it may be cut off, so fetch it again."
        ) from error


def _check(
    found: Mapping[str, tuple[tuple[int, ...], Any]],
    stored: Mapping[str, Stored],
    config: DecoderConfig,
    *,
    where: str,
) -> dict[str, Any]:
    """Canonical tensor names to where they are; stops unless all fit and none is left over."""
    shapes = {name: part.shape for part in stored.values() for name in part.names}
    ignored = {"lm_head.weight"} if config.tied_embeddings else set()
    places, wrong, sizes = {}, [], {}
    for name, (shape, place) in found.items():
        known = [
            canonical
            for prefix in _TEXT_PREFIXES
            if name.startswith(prefix)
            for rest in (name.removeprefix(prefix),)
            for canonical in (rest, f"model.{rest}")
            if canonical in shapes or canonical in ignored
        ]
        if known:
            places[known[0]], sizes[known[0]] = place, shape
        elif not name.startswith(_NOT_TEXT) and not name.endswith("rotary_emb.inv_freq"):
            wrong.append(f"{name} is unknown")
    wrong = [f"{name} is missing" for name in shapes if name not in places] + wrong
    wrong += [
        f"{name} has shape {sizes[name]} instead of {shape}"
        for name, shape in shapes.items()
        if name in sizes and sizes[name] != shape
    ]
    if wrong:
        raise ValueError(f"{where} does not hold the model it describes: {'; '.join(wrong)}.")
    return places


def _read_slice(
    found: Mapping[str, tuple[pathlib.Path, str]],
    part: Stored,
    shape: tuple[int, ...],
    index: tuple[slice, ...],
    dtype: Any,
) -> np.ndarray:
    """The part `index` of our parameter; reads no more than that from disk."""
    spans = [range(*each.indices(size)) for each, size in zip(index, shape, strict=True)]
    experts, spans = (spans[0], spans[1:]) if part.stacked else (range(1), spans)
    if part.transposed:
        spans = spans[::-1]
    cut = tuple(slice(span.start, span.stop) for span in spans)
    pieces = []
    for expert in experts:
        path, name = found[part.names[expert]]
        with _open(path) as file:  # opened for each tensor, so that pages read are let go of
            piece = file.get_slice(name)[cut]
        pieces.append(np.ascontiguousarray(piece.T if part.transposed else piece, dtype))
    return np.stack(pieces) if part.stacked else pieces[0]
