"""Measures how long loading a checkpoint takes, and how much host memory it needs.

    python experiments/benchmark_loading.py [--backbone=qwen2.5-1.5b-instruct] [--folder=/tmp]

Writes a random checkpoint of the backbone's shape in shards, then, each time in a process of
its own and one after the other, reads its files into memory and loads it. Prints both times, their
ratio and the memory that loading added at its peak, over the size of the files.
"""

import concurrent.futures
import importlib
import json
import multiprocessing
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

import jax
import ml_dtypes
import numpy as np
import rich
import safetensors.numpy
from absl import app, flags

from agemem_jax.commands import cli
from agemem_jax.models import hf_config, hf_import
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.hf_names import stored_parameters
from agemem_jax.models.registry import BACKBONES
from experiments.benchmarks.peers.peak_memory import peak_memory

_BACKBONE = flags.DEFINE_string("backbone", "qwen2.5-1.5b-instruct", "Whose shape to take.")
_SHARDS = flags.DEFINE_integer("shards", 4, "Files to write.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each.", 1)
_FOLDER = flags.DEFINE_string("folder", None, "Where to write; default: the system's.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    if _BACKBONE.value not in BACKBONES:
        raise ValueError(f"--backbone is {_BACKBONE.value!r}; known: {', '.join(BACKBONES)}.")
    config = BACKBONES[_BACKBONE.value].shape
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        size = _alone(write_checkpoint, folder, config, _SHARDS.value)
        reads, loads, peaks = [], [], []
        for _ in range(_REPEATS.value):
            reads.append(_alone(read_files, folder))
            seconds, peak = _alone(load, folder)
            loads.append(seconds)
            peaks.append(peak / size)
    ratios = [after / before for before, after in zip(reads, loads, strict=True)]
    rich.print(
        f"{_BACKBONE.value}: {size / 2**30:.2f} GiB in {_SHARDS.value} files, bfloat16, median "
        f"(min to max) of {_REPEATS.value}\n"
        f"reading the files   {_spread(reads)} s\n"
        f"loading             {_spread(loads)} s\n"
        f"loading / reading   {_spread(ratios)}\n"
        f"peak memory / size  {_spread(peaks)}"
    )


def write_checkpoint(folder: str, config: DecoderConfig, shards: int) -> int:
    """Writes random bfloat16 tensors; returns their size in bytes."""
    folder, rng = pathlib.Path(folder), np.random.default_rng(0)
    (folder / "config.json").write_text(json.dumps(hf_config.to_values(config)), encoding="utf-8")
    tensors = {n: part.shape for part in stored_parameters(config).values() for n in part.names}
    total = 2 * sum(int(np.prod(shape)) for shape in tensors.values())
    number, held, bytes_held = 1, {}, 0
    for name, shape in tensors.items():
        held[name] = rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)
        bytes_held += held[name].nbytes
        if bytes_held >= total / shards or name == list(tensors)[-1]:
            path = folder / f"model-{number:05}-of-{shards:05}.safetensors"
            safetensors.numpy.save_file(held, path, {"format": "pt"})
            number, held, bytes_held = number + 1, {}, 0
    return total


def read_files(folder: str) -> float:
    """Seconds for reading every file into memory."""
    begun = time.perf_counter()
    held = [path.read_bytes() for path in sorted(pathlib.Path(folder).glob("*.safetensors"))]
    seconds = time.perf_counter() - begun
    del held
    return seconds


def load(folder: str) -> tuple[float, int]:
    """Seconds for loading onto the default device, and the bytes it added at its peak."""
    jax.block_until_ready(jax.numpy.zeros(1))  # start the backend
    importlib.import_module("transformers.models.auto.configuration_auto")  # takes a second
    before = peak_memory()
    begun = time.perf_counter()
    config = hf_config.read_config(folder)
    params = hf_import.read_params(folder, config, dtype=ml_dtypes.bfloat16)
    jax.block_until_ready(params)
    return time.perf_counter() - begun, peak_memory() - before


def _alone(function, *arguments):
    """Calls the function in a fresh process, so that peaks do not add up."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    cli.run(main)
