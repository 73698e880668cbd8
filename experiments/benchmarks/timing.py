"""Measuring: repeated timings, the machine's limits, peers in processes of their own."""

import dataclasses
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from agemem_jax.models.kernels import product_cpu

_LESS_IS_MORE = ("s", "ms", "GiB", "tokens", "%")
# Spares torch a tenth of its time: memory that it frees is kept for its next tensors.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_ARENA_MAX": "1",
}  # fmt: skip
PEERS = pathlib.Path(__file__).parent / "peers"


@dataclasses.dataclass(frozen=True)
class Timing:
    """Repeated measurements of one thing.

    Attributes:
      values: as measured, warm-up left out.
      unit: of the values, such as "s" or "tokens/s".
    """

    values: tuple[float, ...]
    unit: str = "s"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def per(self, amount: float, unit: str) -> "Timing":
        """Seconds turned into a rate: `amount` per second."""
        return Timing(tuple(amount / value for value in self.values), unit)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{_short(self.median)} ({_short(low)} to {_short(high)}) {self.unit}"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


@dataclasses.dataclass
class Case:
    """One row of the report.

    Attributes:
      name: what was done, shapes included.
      ours: how long it took here, or how fast it went; None where there is no figure, and
        `note` says why.
      peers: the same by others, by name, in the same unit.
      limit: the same if only matrix products or memory reads cost time.
      wanted: how many times as fast as each peer, and which share of the limit, ours
        should be; a key is a peer's name or "limit".
      note: anything a reader should know.
    """

    name: str
    ours: Timing | None
    peers: dict[str, Timing] = dataclasses.field(default_factory=dict)
    limit: Timing | None = None
    wanted: dict[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""

    def ratio(self, other: Timing) -> float:
        """How many times as fast as `other` ours is."""
        if self.ours.unit != other.unit:
            raise ValueError(f"{self.name}: {self.ours.unit} cannot be compared with {other.unit}.")
        faster = self.ours.median / other.median
        return 1 / faster if self.ours.unit in _LESS_IS_MORE else faster


def measure(function: Callable[[], Any], repeats: int, warmup: int = 1, calls: int = 1) -> Timing:
    """Seconds that `function` takes until its result is there; of `calls` in a row, each."""
    for _ in range(warmup):
        jax.block_until_ready(function())
    values = []
    for _ in range(repeats):
        begun = time.perf_counter()
        for _ in range(calls):
            result = function()
        jax.block_until_ready(result)
        values.append((time.perf_counter() - begun) / calls)
    return Timing(tuple(values))


def interleaved(
    functions: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1, calls: int = 1
) -> dict[str, Timing]:
    """`measure` for several functions in turn, so that a noisy minute hits all of them."""
    for function in functions.values():
        for _ in range(warmup):
            jax.block_until_ready(function())
    values: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            values[name].append(measure(function, 1, 0, calls).values[0])
    return {name: Timing(tuple(each)) for name, each in values.items()}


def products(shapes: Sequence[tuple[int, int, int]], repeats: int, dtype=jnp.float32) -> Timing:
    """Seconds for matrix products of shapes (rows, inner, columns), each with operands of its own.

    This is the limit of a program that needs these products: nothing else is computed. XLA's are
    meant, or where they are faster those of the kernel for CPUs.
    """
    keys = jax.random.split(jax.random.key(0), len(shapes))
    rights = [
        jax.random.normal(key, (inner, columns), dtype)
        for key, (_, inner, columns) in zip(keys, shapes, strict=True)
    ]
    lefts = {
        (rows, inner): jnp.ones((rows, inner), dtype) for rows, inner, _ in dict.fromkeys(shapes)
    }

    @functools.partial(jax.jit, static_argnums=0)
    def run(product, lefts, rights):
        return [
            product(lefts[rows, inner], right)
            for (rows, inner, _), right in zip(shapes, rights, strict=True)
        ]

    found = [measure(lambda: run(jnp.matmul, lefts, rights), repeats)]
    rights = [right.T for right in rights]
    if all(product_cpu.suits(lefts[s[:2]], right) for s, right in zip(shapes, rights, strict=True)):
        found.append(measure(lambda: run(product_cpu.times_transposed, lefts, rights), repeats))
    return min(found, key=lambda timing: timing.median)


def memory_bandwidth(repeats: int) -> Timing:
    """GB/s of reading a large array once."""
    array = jnp.ones(2**27, jnp.float32)
    seconds = measure(lambda: jnp.sum(array), repeats)
    return seconds.per(array.nbytes / 1e9, "GB/s")


def machine() -> dict[str, Any]:
    """What a reader must know of the machine to place the figures."""
    model = ""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = lines[0].split(":", 1)[1].strip() if lines else ""
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "device": str(jax.devices()[0].device_kind),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def run_peer(
    environments: pathlib.Path, name: str, script: str, *arguments: str, timeout: float = 3600
) -> dict[str, Any]:
    """Runs `peers/<script>` in the environment `name`; returns what it printed last, as JSON.

    Raises:
      FileNotFoundError: the environment is not there.
      RuntimeError: the peer failed; the message holds the end of what it wrote.
    """
    python = environments / name / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(
            f"{python} is not there; make the peers' environments with `bash launch/peers.sh`."
        )
    return run_script(python, script, *arguments, timeout=timeout)


def run_script(
    python: str | os.PathLike, script: str, *arguments: str, timeout: float
) -> dict[str, Any]:
    """Runs `peers/<script>` by this `python`; returns what it printed last, as JSON.

    Raises:
      RuntimeError: the peer failed; the message holds the end of what it wrote.
      subprocess.TimeoutExpired: it took longer than `timeout` seconds.
    """
    result = subprocess.run(
        [str(python), str(PEERS / script), *arguments],
        env=os.environ | ALLOCATOR, capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"{script} failed: {result.stderr[-2000:]}")
    printed = result.stdout.strip().splitlines()[-1]
    logging.info("%s %s: %s", script, " ".join(arguments[1:]), printed)
    return json.loads(printed)
