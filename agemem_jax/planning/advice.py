"""What would make a job fit that does not: changes of its configuration, and what each saves.

Savings of state, weights and caches follow from shapes. Those of temporaries are taken to be
proportional to what they scale with.
"""

import dataclasses
from collections.abc import Iterator, Mapping

from agemem_jax.parallel.mesh import batch_shards
from agemem_jax.planning.ahead_of_time import Job, bytes_per_device
from agemem_jax.planning.chips import Chip
from agemem_jax.planning.footprint import Memory

START = "the start"  # of a run, beside the names of functions
_LORA_RANK = 16
_MOST = 0.92  # of a GPU's memory that JAX can take; the rest is for CUDA and NCCL


def advise(job: Job, memories: Mapping[str, Memory], chip: Chip) -> str | None:
    """One sentence on how the job would fit; None where it does.

    Args:
      job: that does not, or does.
      memories: what each of its functions takes.
      chip: that it runs on.
    """
    over = {name: memory for name, memory in memories.items() if not memory.fits}
    if not over:
        return None
    worst = max(over, key=lambda name: over[name].total - over[name].available)
    memory = over[worst]
    missing = memory.total - memory.available
    savings = [*_of_allocator(memory, chip), *_savings(job, worst, memory)]
    savings.sort(key=lambda each: -each[1])
    enough = [text for text, saved in savings if saved >= missing]
    start = (
        f"{worst} needs {memory.total / 2**30:.2f} GiB of a chip's "
        f"{memory.available / 2**30:.2f} GiB: "
    )
    if enough:
        return f"{start}it would fit with {', or with '.join(enough)}."
    together, saved = [], 0
    for text, each in savings:
        together.append(text)
        saved += each
        if saved >= missing:
            return f"{start}it would fit with {' and '.join(together)} together."
    return f"{start}it takes more chips, or a smaller backbone."


def _savings(job: Job, name: str, memory: Memory) -> Iterator[tuple[str, int]]:
    """Changes, and the bytes that each saves on a chip."""
    config, plays = job.config, name in ("prefill", "decode")
    state = bytes_per_device(job.state())
    mesh = config.mesh
    data = 1 if job.mesh is None else job.mesh.shape["data"]
    if data > 1:
        yield _change(job, state, f"mesh.fsdp={mesh.fsdp * data}", mesh=dataclasses.replace(
            mesh, data=1, fsdp=mesh.fsdp * data))  # fmt: skip
    if not config.model.lora_rank:
        model = dataclasses.replace(config.model, lora_rank=_LORA_RANK, param_dtype="bfloat16")
        yield _change(job, state, f"model.lora_rank={_LORA_RANK}", model=model)
    elif config.model.param_dtype == "float32":
        model = dataclasses.replace(config.model, param_dtype="bfloat16")
        yield _change(job, state, "model.param_dtype=bfloat16", model=model)
    if plays:
        yield from _of_rollouts(job)
    elif name != START:
        yield from _of_rows(job, memory.temporaries)
    chips = len(job.devices)
    for factor in (2, 4, 8):
        # Where state is split already, more chips hold less of it each.
        if mesh.fsdp > 1 and memory.total - state * (1 - 1 / factor) <= memory.available:
            yield (
                f"{factor * chips} chips and mesh.fsdp={factor * mesh.fsdp}",
                int(state * (1 - 1 / factor)),
            )
            break


def _of_allocator(memory: Memory, chip: Chip) -> Iterator[tuple[str, int]]:
    """JAX leaves a part of a GPU's memory alone, and could leave less."""
    more = int(_MOST * chip.memory) - memory.available
    if chip.platform == "cuda" and more > 0:
        yield f"XLA_CLIENT_MEM_FRACTION={_MOST} in the environment", more


def _change(job: Job, before: int, text: str, **changes) -> tuple[str, int]:
    config = dataclasses.replace(job.config, **changes)
    try:
        changed = Job.of(config, job.devices, job.own, job.prefix)
        return text, before - bytes_per_device(changed.state())
    except ValueError:  # what is split does not divide
        return text, 0


def _of_rollouts(job: Job) -> Iterator[tuple[str, int]]:
    config, shards = job.config, batch_shards(job.rollout_mesh)
    tensor = config.mesh.rollout_tensor or config.mesh.tensor
    if len(job.own) > tensor:
        mesh = dataclasses.replace(config.mesh, rollout_tensor=len(job.own))
        try:
            changed = Job.of(dataclasses.replace(config, mesh=mesh), job.devices, job.own, 0)
            saved = bytes_per_device(job.rollout_weights())
            saved -= bytes_per_device(changed.rollout_weights())
            yield f"mesh.rollout_tensor={len(job.own)}", saved
        except ValueError:
            pass
    cache = bytes_per_device(job.cache())
    if config.engine.cache_dtype == "float32":
        yield "engine.cache_dtype=bfloat16", cache // 2
    slots = config.engine.slots // 2 // shards * shards
    if slots:
        yield f"engine.slots={slots}", cache - cache * slots // config.engine.slots


def _of_rows(job: Job, temporaries: int) -> Iterator[tuple[str, int]]:
    config, shards = job.config, batch_shards(job.mesh)
    if not config.model.remat:
        # Of a layer is kept what goes in, instead of some ten times as much.
        yield "model.remat=True", int(0.8 * temporaries)
    if config.model.compute_dtype == "float32":
        yield "model.compute_dtype=bfloat16", temporaries // 2
    own = job.rows // shards
    if own > 1:
        yield f"packing.rows={shards}", int(temporaries * (1 - 1 / own))
    length, needed = config.packing.row_lengths[-1], config.episode.max_length
    if length > needed:
        saved = int(temporaries * (1 - needed / length))
        yield f"packing.row_lengths={needed}", saved
