"""What a compiled function of a job asks of each chip: memory, work, and the time these allow.

Times are bounds, not predictions: the longest of arithmetic, memory traffic and collectives, each
at the chip's peak rate, as if the three overlapped perfectly.
"""

import dataclasses
import re
import time
from typing import Any

import jax

from agemem_jax.models import flops
from agemem_jax.planning import gpu_program, hlo_costs
from agemem_jax.planning.ahead_of_time import Job, bytes_per_device
from agemem_jax.planning.chips import Topology

_UNBOUNDED_MIB = 1 << 21  # more memory than any chip has


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip while a function runs, at their most.

    Attributes:
      arguments: what goes in, what is donated included.
      outputs: what comes out and takes no argument's place.
      temporaries: all that lives in between, and the program itself.
      held: what the function does not read, and is there all the same: the rest of the training
        state, memories, scores.
      available: what the chip has.
    """

    arguments: int
    outputs: int
    temporaries: int
    held: int
    available: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs + self.temporaries + self.held

    @property
    def fits(self) -> bool:
        return self.total <= self.available


class TooLarge(ValueError):
    """A function that the compiler gives up, and the least memory that it takes."""

    def __init__(self, name: str, memory: Memory):
        super().__init__(
            f"{name} takes so much memory that the compiler gives up: at least "
            f"{memory.total / 2**30:.2f} GiB of a chip's {memory.available / 2**30:.2f} GiB."
        )
        self.memory = memory


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Of one function.

    Attributes:
      name: one of `ahead_of_time.FUNCTIONS`.
      unit: what the figures are for, since some loops run as often as the data ask.
      memory: of a chip.
      costs: of a chip.
      compile_seconds: that the compiler took on this machine.
      program: what a GPU and its host do; None for TPUs.
      model_flops: that the model needs for the unit, on all chips that share the work.
      chips: that share the work.
      compute_seconds, memory_seconds, network_seconds: each at the chip's peak.
      peak_flops: of a chip, per second.
    """

    name: str
    unit: str
    memory: Memory
    costs: hlo_costs.Costs
    compile_seconds: float
    program: gpu_program.Program | None
    model_flops: float
    chips: int
    compute_seconds: float
    memory_seconds: float
    network_seconds: float
    peak_flops: float

    @property
    def seconds(self) -> float:
        """The shortest time in which the chip can do it."""
        return max(self.compute_seconds, self.memory_seconds, self.network_seconds)

    @property
    def bound(self) -> str:
        """What that time is spent on."""
        times = {
            "compute": self.compute_seconds, "memory": self.memory_seconds,
            "network": self.network_seconds,
        }  # fmt: skip
        return max(times, key=times.get)

    @property
    def mfu(self) -> float:
        """Model FLOPs over what the chips could do in `seconds`."""
        return self.model_flops / (self.seconds * self.chips * self.peak_flops)

    def to_json(self) -> dict[str, Any]:
        derived = {name: getattr(self, name) for name in ("seconds", "bound", "mfu")}
        values = dataclasses.asdict(self) | derived
        if self.program:
            values["program"]["turn"] = dataclasses.asdict(self.program.turn)
        return values


def at_start(job: Job, topology: Topology) -> Memory:
    """What a chip holds before the first token, when a run begins or is taken up again."""
    return Memory(0, 0, 0, bytes_per_device(job.at_start()), topology.chip.usable)


def measure(job: Job, name: str, topology: Topology) -> Footprint:
    """Compiles one function of a job for a topology, and accounts for it.

    Raises:
      TooLarge: it does not fit by so much that there is no program to account for.
    """
    chip, held = topology.chip, bytes_per_device(job.held(name))
    lowered, program = job.lower(name), None
    begun = time.perf_counter()
    try:
        if chip.platform == "cuda":
            compiled, program = gpu_program.compile(lowered)
        else:
            compiled = _compile(lowered, held)
    except jax.errors.JaxRuntimeError as error:
        told = re.search(r"required for HLO temporaries \(([\d.]+)G\)", str(error))
        if told is None:
            raise
        temporaries = int(float(told[1]) * 2**30)
        raise TooLarge(name, Memory(0, 0, temporaries, held, chip.usable)) from error
    if program and name == "decode":
        program = dataclasses.replace(program, around=job.config.engine.chunk)
    seconds = program.seconds if program else time.perf_counter() - begun
    sizes = compiled.memory_analysis()
    outputs = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    inner = sizes.peak_memory_in_bytes - sizes.argument_size_in_bytes - outputs
    memory = Memory(
        arguments=sizes.argument_size_in_bytes,
        outputs=outputs,
        temporaries=max(inner, 0) + sizes.generated_code_size_in_bytes,
        held=held,
        available=chip.usable,
    )
    costs = hlo_costs.costs(compiled.as_text())
    plays = name in ("prefill", "decode")
    network = (topology.host if plays else topology).bandwidth
    unit, wanted = model_flops(job, name)
    return Footprint(
        name=name, unit=unit, memory=memory, costs=costs, compile_seconds=seconds,
        program=program, model_flops=wanted,
        chips=len(job.own) if plays else len(job.devices),
        compute_seconds=costs.flops / chip.flops,
        memory_seconds=costs.bytes / chip.hbm,
        network_seconds=costs.exchanged / network if network else 0.0,
        peak_flops=chip.flops,
    )  # fmt: skip


def _compile(lowered: jax.stages.Lowered, held: int) -> jax.stages.Compiled:
    """Beside what is held; where that does not fit, as if there were room, to say what it takes."""
    try:
        return lowered.compile(compiler_options={"xla_tpu_user_reserved_hbm_bytes": str(held)})
    except jax.errors.JaxRuntimeError as error:
        if not re.search("RESOURCE_EXHAUSTED|out of memory|exceeds available HBM", str(error)):
            raise
    return lowered.compile(compiler_options={"xla_tpu_max_hbm_size_mib": str(_UNBOUNDED_MIB)})


def model_flops(job: Job, name: str) -> tuple[str, float]:
    """What the figures of a function are for, and the operations that the model needs for it."""
    config, model = job.config, job.model
    if name == "decode":
        engine = config.engine
        tokens = engine.slots * engine.chunk
        unit = f"{engine.chunk} tokens in each of {engine.slots} slots"
        return unit, flops.forward(model, tokens, tokens * engine.max_length, tokens)
    if name == "prefill":
        size = config.engine.prefill_buckets[-1]
        rows = job.prefill_rows
        before = config.engine.max_length - size
        pairs = rows * flops.causal_pairs(size, before)
        # Of the last layer, keys and values are all that is needed.
        needed = flops.forward(model, rows * size, pairs, 0) * (1 - 1 / model.num_layers)
        needed += 4.0 * rows * size * model.width * model.num_kv_heads * model.head_dim
        return f"{size} tokens in each of {rows} slots", needed
    length = config.packing.row_lengths[-1]
    targets = min(config.packing.max_targets or length, length)
    tokens = job.rows * length + job.prefix
    pairs = job.rows * flops.causal_pairs(length, job.prefix) + flops.causal_pairs(job.prefix)
    needed = flops.update if name == "update" else flops.forward
    also = " and the optimiser's step" if name == "update" else ""
    unit = f"a microbatch of {job.rows} rows of {length} tokens{also}"
    return unit, needed(model, tokens, pairs, job.rows * targets)
