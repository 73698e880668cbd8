"""The suite for accelerators: every part in a process of its own, within a time that is given.

A part that fails, hangs or takes the device's memory costs its own rows, and what it had
measured by then is kept. Processes come one after the other, since each takes most of the
device's memory. Sizes are those of real models on an accelerator, and tiny on a CPU.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging

from experiments.benchmarks.accelerator import peers, sizes
from experiments.benchmarks.accelerator.sizes import Sizes
from experiments.benchmarks.options import Options
from experiments.benchmarks.timing import Case, Timing

_ROOT = pathlib.Path(__file__).parents[3]
_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
Peer = Callable[[Sizes, Options, float], peers.Found]


@dataclasses.dataclass(frozen=True)
class Part:
    """Something that is measured in a process of its own.

    Attributes:
      function: module and name of a function of sizes and repeats that yields cases.
      seconds: that it may take, compiling included.
      peers: what runs behind it, and the seconds of each.
    """

    function: str
    seconds: float
    peers: Mapping[str, tuple[Peer, float]] = dataclasses.field(default_factory=dict)


# In the order of what to know first: the last ones are what a slow device leaves out.
PARTS: dict[str, Part] = {
    "limits": Part("limits.run", 40),
    "correctness": Part("correctness.run", 75),
    "attention": Part("attention.run", 75),
    "decode": Part("generation.run", 90, {"transformers": (peers.transformers, 60)}),
    "start": Part("start.run", 170),
    "update": Part("training.run_update", 90),
    "grpo_step": Part(
        "training.run_step",
        100,
        {"TRL": (peers.trl, 80), "TRL with vLLM": (peers.trl_with_vllm, 90)},
    ),
    "episodes": Part("episodes.run", 90),
}
_LEAST = 15.0  # seconds, below which nothing is begun


def run(options: Options) -> list[Case]:
    """Cases of all parts, or of those that `options` names."""
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        raise ValueError(f"No part is called {unknown[0]!r}; known: {', '.join(PARTS)}.")
    deadline = time.monotonic() + options.budget
    name_of_sizes = sizes.of_platform(jax.default_backend())
    of = sizes.BY_NAME[name_of_sizes]
    cases = []
    for name in options.parts or PARTS:
        part = PARTS[name]
        begun, left = time.monotonic(), deadline - time.monotonic()
        if left < _LEAST:
            cases.append(_missing(name, f"left out: the {options.budget:g} s are over"))
            continue
        log = options.output / f"accelerator_{name}.log"
        found = measure_alone(
            name, part.function, name_of_sizes, options, min(part.seconds, left), log
        )
        logging.info("%s took %.0f s", name, time.monotonic() - begun)
        if options.peers:
            for peer, (measure, most) in part.peers.items():
                timeout = min(most, deadline - time.monotonic())
                found += _beside(found, peer, measure, of, options, timeout)
        cases += found
    return cases


def leave_memory() -> None:
    """Keeps this process from taking most of the device; must come before JAX has looked for it."""
    os.environ.setdefault(_PREALLOCATE, "false")


def measure_alone(
    name: str,
    function: str,
    name_of_sizes: str,
    options: Options,
    timeout: float,
    log: pathlib.Path,
) -> list[Case]:
    """Runs one part in a process of its own; returns what it measured, and what went wrong.

    Args:
      name: of the part.
      function: see `Part`.
      name_of_sizes: a key of `sizes.BY_NAME`.
      options: of the suite.
      timeout: seconds until it is ended.
      log: where what it writes goes.
    """
    path = options.folder / f"{name}.jsonl"
    environment = {key: value for key, value in os.environ.items() if key != _PREALLOCATE}
    command = [
        sys.executable, "-m", "experiments.benchmarks.accelerator.alone", function, name_of_sizes,
        str(options.repeats), str(path),
    ]  # fmt: skip
    problem = None
    with log.open("w") as written:
        process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdout=written, stderr=written,
            start_new_session=True,
        )  # fmt: skip
        try:
            if process.wait(timeout):
                problem = f"failed: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            problem = f"not done after {timeout:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it started
            process.wait()
    lines = path.read_text().splitlines() if path.exists() else []
    cases = [read_case(json.loads(line)) for line in lines]
    return cases if problem is None else [*cases, _missing(name, f"{problem}; see {log.name}")]


def read_case(values: dict[str, Any]) -> Case:
    """A case from its plain values."""

    def timing(each):
        return None if each is None else Timing(tuple(each["values"]), each["unit"])

    return Case(
        **values
        | {
            "ours": timing(values["ours"]), "limit": timing(values["limit"]),
            "peers": {name: timing(each) for name, each in values["peers"].items()},
        }
    )  # fmt: skip


def _beside(
    found: list[Case], peer: str, measure: Peer, of: Sizes, options: Options, timeout: float
) -> list[Case]:
    """Adds a peer's figures to the cases; returns a case that says so where there are none."""
    if timeout < _LEAST:
        return [_missing(peer, "left out: the time is over")]
    try:
        timings = measure(of, options, timeout)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        logging.error("%s: %s", peer, error)
        last = str(error).strip().splitlines()[-1]
        return [_missing(peer, last[:300])]
    missing = set(timings) - {case.name for case in found if case.ours is not None}
    for case in found:
        case.peers |= timings.get(case.name, {})
    # Ours failed; what the peer took is worth having.
    return [
        Case(f"{name}: {other} alone", timing)
        for name in sorted(missing)
        for other, timing in timings[name].items()
    ]


def _missing(name: str, why: str) -> Case:
    return Case(name, None, note=why)


def _last_line(log: pathlib.Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"
