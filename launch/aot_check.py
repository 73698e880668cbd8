"""Compiles a job for TPUs or GPUs that are not there, on a CPU, and says whether it fits and how
fast it can be.

    AGEMEM_EXTRA=tpu bash launch/setup.sh && source .venv/bin/activate
    python launch/aot_check.py --backbone=qwen2.5-7b-instruct --topology=v5e:4x4 \\
        --config.model.lora_rank=0 --config.mesh.fsdp=16 --config.mesh.rollout_tensor=4

    AGEMEM_EXTRA=cuda bash launch/setup.sh && source .venv/bin/activate
    python launch/aot_check.py --backbone=qwen2.5-0.5b-instruct --topology=h100:1

Of GPUs it tells as well how many kernels run, and how often the host waits for a predicate.
Compiled are prefill, decode, score and update as `experiments/train.py` runs them with the same
configuration. Ends with status 1 when one of them does not fit into a chip, and says what would
make it fit. docs/scaling.md explains the figures.
"""

import collections
import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Iterator

# Before JAX is imported: no accelerator is looked for, and what transformers misses is not told.
os.environ |= {"JAX_PLATFORMS": "cpu", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}

import humanize
import jax
import rich
from absl import app, flags
from rich import box
from rich import table as rich_table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands import cli
from agemem_jax.commands.config_flag import CONFIG
from agemem_jax.planning import ahead_of_time
from agemem_jax.planning.advice import START, advise
from agemem_jax.planning.chips import Topology
from agemem_jax.planning.footprint import Footprint, Memory, TooLarge, at_start, measure
from agemem_jax.planning.gpu_program import Work
from agemem_jax.training.configuration import run_config

flags.set_default(CONFIG, "qwen2.5_7b_hotpotqa")
_BACKBONE = flags.DEFINE_string("backbone", None, "Short for --config.backbone.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "Chip, and how many: v5e:4x4, h100:8.")
_FUNCTIONS = flags.DEFINE_list("functions", list(ahead_of_time.FUNCTIONS), "Which ones to compile.")
_PREFIX = flags.DEFINE_integer(
    "prefix_tokens", 1024, "System prompt and tool schemas, which all segments share.", 0
)
_JSON = flags.DEFINE_string("json", None, "Where to write the same figures as JSON.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    jax.config.update("jax_enable_compilation_cache", False)  # only a device could read it
    topology = Topology.parse(_TOPOLOGY.value)
    config = CONFIG.value
    if _BACKBONE.value is not None:
        config.backbone = _BACKBONE.value
    config.judge.kind = "offline"  # nobody is asked
    job = ahead_of_time.Job.of(
        run_config.build(config), ahead_of_time.devices(topology),
        ahead_of_time.devices(topology.host), _PREFIX.value,
    )  # fmt: skip
    unknown = sorted(set(_FUNCTIONS.value) - set(ahead_of_time.FUNCTIONS))
    if unknown:
        raise ValueError(
            f"--functions names {unknown[0]!r}; known: {', '.join(ahead_of_time.FUNCTIONS)}."
        )
    footprints, memories = [], {START: at_start(job, topology)}
    for name in job.functions:
        if name not in _FUNCTIONS.value:
            continue
        try:
            footprints.append(measure(job, name, topology))
            memories[name] = footprints[-1].memory
            show(footprints[-1], job.model.num_layers)
        except TooLarge as error:
            memories[name] = error.memory
            rich.print(error)
    start = memories[START]
    rich.print(
        f"The start of a run takes {start.total / 2**30:.2f} GiB of a chip's "
        f"{start.available / 2**30:.2f} GiB."
    )
    advice = advise(job, memories, topology.chip)
    if _JSON.value:
        write(_JSON.value, job, topology, start, footprints, advice)
    rich.print(advice or f"Fits: {job.config.backbone} on {topology.name}.")
    sys.exit(1 if advice else 0)


def show(footprint: Footprint, layers: int) -> None:
    """One function of a model with so many layers, as a table."""
    memory, costs = footprint.memory, footprint.costs
    table = rich_table.Table(
        title=f"{footprint.name}: {footprint.unit}",
        box=box.SIMPLE_HEAD, title_justify="left", show_edge=False, show_header=False,
    )  # fmt: skip
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)

    binary = functools.partial(humanize.naturalsize, binary=True, format="%.2f")
    decimal = functools.partial(humanize.metric, precision=3)
    for name in ("arguments", "outputs", "temporaries", "held"):
        table.add_row(name, binary(getattr(memory, name)))
    verdict = "fits" if memory.fits else "does not fit"
    table.add_row("peak", binary(memory.total), f"of {binary(memory.available)}: {verdict}")
    table.add_section()
    table.add_row("arithmetic", decimal(costs.flops, "FLOP"))
    table.add_row("memory traffic", decimal(costs.bytes, "B"))
    if costs.padding:
        table.add_row("fills tiles", decimal(costs.padding, "B"), "of it")
    for kind, each in costs.collectives.items():
        table.add_row(kind, decimal(each.bytes, "B"), f"in {each.count:,}")
    table.add_section()
    for name in ("compute", "memory", "network"):
        seconds = decimal(getattr(footprint, f"{name}_seconds"), "s")
        table.add_row(f"{name} at peak", seconds, "<- at least" * (name == footprint.bound))
    table.add_row("MFU", f"{100 * footprint.mfu:.1f} %", "at most")
    table.add_section()
    table.add_row("compiled in", decimal(footprint.compile_seconds, "s"))
    rich.print(table)
    if footprint.program:
        print("\n".join(told_of_program(footprint, layers)))


def told_of_program(footprint: Footprint, layers: int) -> Iterator[str]:
    """What a GPU and its host do, and the loops, alike ones together."""
    program = footprint.program
    units = {"decode": "decoded token", "prefill": "call"}
    work, unit = program.turn, units.get(footprint.name, "microbatch")
    least = any(loop.trips is None and loop.depth for loop in program.loops)
    yield f" seconds of processors to compile: {program.cpu_seconds:.0f}"
    yield f" kernels per {unit}: {work.total:,}, per layer: {work.total / layers:.1f}"
    yield f" launches by the host: {work.launches:,}"
    yield f" predicate reads: {work.reads:,}{' or more' * least}"
    alike = collections.Counter((loop.trips, told(loop.turn)) for loop in program.loops)
    for (trips, turn), count in alike.items():
        turns = "that the data end" if trips is None else f"of {trips} turns"
        yield f" {count} loop{'s' * (count > 1)} {turns}, a turn: {turn}"


def told(work: Work) -> str:
    """Kernels by kind, the most frequent first."""
    ordered = sorted(work.kernels.items(), key=lambda each: -each[1])
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in ordered)
    reads = f"; predicate reads: {work.reads:,}" * bool(work.reads)
    return f"{work.total:,} kernels ({kinds}){reads}"


def write(
    path: str, job, topology: Topology, start: Memory, footprints: list[Footprint], advice
) -> None:
    """All figures; bytes, seconds, and operations of one chip, but `model_flops` of all."""
    values = {
        "backbone": job.config.backbone, "topology": topology.name,
        "lora_rank": job.config.model.lora_rank, "layers": job.model.num_layers,
        "fits": advice is None, "advice": advice,
        "start": dataclasses.asdict(start),
        "functions": {each.name: each.to_json() for each in footprints},
    }  # fmt: skip
    pathlib.Path(path).write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
