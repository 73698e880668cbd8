"""Reads the parameters of a Hugging Face model directory (*.safetensors).

Files are memory-mapped, one tensor at a time, and each device is handed the slice that
it will hold in the dtype that it will hold it in: the host never has a second copy of the
model.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
from absl import logging
from jaxtyping import PyTree

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.hf_names import Stored, stored_parameters

# Beside the text model in checkpoints that read images as well.
_TEXT_PREFIXES = ("", "language_model.", "model.language_model.")
_NOT_TEXT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.",
             "model.multi_modal_projector.")  # fmt: skip
_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
_HINTS = {_OUTPUT: " though config.json has tie_word_embeddings false"}
_READERS = 4  # tensors read side by side: reading waits for the disk, converting for a core
_ROWS = 64  # of a tensor that are read together
_ALIGNMENT = 64  # bytes


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

    def read(path):
        part = stored[path]
        return jax.make_array_from_callback(
            part.held_shape,
            places.get(path, default),
            lambda index: _read_slice(found, part, part.held_shape, index, dtype),
        )

    # The largest first, while least else is in memory.
    order = sorted(stored, key=lambda path: -math.prod(stored[path].held_shape))
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        flat = dict(zip(order, pool.map(read, order), strict=True))
    return flax.traverse_util.unflatten_dict({path: flat[path] for path in stored}, sep="/")


def untied_by_files(directory: str | os.PathLike, config: DecoderConfig) -> DecoderConfig:
    """`config`, its output untied where the files hold another matrix than the embedding.

    Some models say that they tie both and were saved with two; transformers then takes both
    as they are, and so does this.

    Raises:
      FileNotFoundError, ValueError: as `read_params`.
    """
    if not config.tied_embeddings:
        return config
    found = _find_tensors(pathlib.Path(directory))
    found = _check(found, stored_parameters(config), config, where=os.fspath(directory))
    if _OUTPUT not in found or _equal(found[_OUTPUT], found[_EMBEDDING]):
        return config
    logging.warning(
        "%s says tie_word_embeddings, but its lm_head.weight is another matrix than its "
        "embedding; both are used, as transformers does.", os.fspath(directory),
    )  # fmt: skip
    return dataclasses.replace(config, tied_embeddings=False)


def _equal(first: tuple[pathlib.Path, str], second: tuple[pathlib.Path, str]) -> bool:
    """Whether two stored matrices hold the same numbers."""
    if first == second:
        return True
    with _open(first[0]) as file, _open(second[0]) as other:
        one, two = file.get_slice(first[1]), other.get_slice(second[1])
        if one.get_shape() != two.get_shape():
            return False
        count = one.get_shape()[0]
        blocks = (slice(row, min(row + _ROWS, count)) for row in range(0, count, _ROWS))
        return all(np.array_equal(one[block], two[block]) for block in blocks)


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
    ignored = {_OUTPUT} if config.tied_embeddings else set()
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
    if config.tied_embeddings and _EMBEDDING not in places and _OUTPUT in places:
        # Which of two names that mean one matrix was written differs.
        places[_EMBEDDING], sizes[_EMBEDDING] = places[_OUTPUT], sizes[_OUTPUT]
    wrong = [
        f"{name} is missing{_HINTS.get(name, '')}" for name in shapes if name not in places
    ] + wrong
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
    held = _aligned_empty([len(span) for span in spans], dtype)
    experts, spans = (spans[0], spans[1:]) if part.stacked else (range(1), spans)
    for expert, place in zip(experts, held if part.stacked else [held], strict=True):
        path, name = found[part.names[expert]]
        with _open(path) as file:  # opened for each tensor, so that pages read are let go of
            tensor = file.get_slice(name)
            if part.transposed:
                _copy_rows(tensor, spans[::-1], place.T)
            else:
                _copy_rows(tensor, spans, place)
    return held


def _aligned_empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array that starts where XLA's CPU buffers may, so that JAX takes it without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _copy_rows(tensor: Any, spans: Sequence[range], place: np.ndarray) -> None:
    """A few stored rows at a time: small buffers are used again, large ones cost page faults."""
    rows, rest = spans[0], tuple(slice(span.start, span.stop) for span in spans[1:])
    for start in range(0, len(rows), _ROWS):
        taken = rows[start : start + _ROWS]
        block = tensor[(slice(taken.start, taken.stop), *rest)]
        part = place[start : start + len(taken)]
        if block.dtype == part.dtype:  # as plain integers, since bfloat16 is copied one by one
            bits = f"u{block.dtype.itemsize}"
            block, part = block.view(bits), part.view(bits)
        part[:] = block
