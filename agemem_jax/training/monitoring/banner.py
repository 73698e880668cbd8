"""What a run is about to do, in a few aligned lines: once at the start, for the log."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from agemem_jax.models import backends
from agemem_jax.models.config import DecoderConfig
from agemem_jax.rollout.generation import EngineConfig
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.curriculum import WARMUP, Phase
from agemem_jax.training.train_state import TrainState


def banner(
    config: RunConfig,
    model: DecoderConfig,
    state: TrainState,
    engine: EngineConfig,
    *,
    meshes: Mapping[str, Mesh | None],
    phases: Sequence[Phase],
    train_tasks: int,
    workdir: str | os.PathLike,
    checkpoints: str | os.PathLike,
    step: int | None,
) -> str:
    """The lines, with a newline in front.

    Args:
      config: of the run.
      model: of the decoder.
      state: that training starts from.
      engine: of rollouts, on the devices that it has.
      meshes: of training and of rollouts, by name.
      phases: of the run.
      train_tasks: how many there are.
      workdir, checkpoints: where things go.
      step: of the checkpoint that the run goes on from; None for a run that begins.
    """
    lines = {
        "devices": _devices(),
        "mesh": "; ".join(f"{name}: {_mesh(mesh)}" for name, mesh in meshes.items()),
        "backbone": _backbone(config, state),
        "dtypes": _dtypes(config, state),
        "backend": backend_path(model, engine),
        "engine": f"{engine.weights} weights, {engine.slots} slots of {engine.max_length} tokens",
        "tasks": f"{config.tasks.name}: {train_tasks:,} to train on, up to "
        f"{config.tasks.eval_size:,} of {config.tasks.held_out_split} to evaluate on",
        "judge": _judge(config),
        "phases": "; ".join(_phase(config, phase) for phase in phases) or "none",
        "workdir": f"{os.fspath(workdir)} (metrics.jsonl, tensorboard)",
        "checkpoints": os.fspath(checkpoints),
        "starts": "from the beginning" if step is None else f"from the checkpoint of step {step}",
    }
    width = max(map(len, lines))
    return "\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in lines.items())


def backend_path(model: DecoderConfig, engine: EngineConfig) -> str:
    """The backend, "auto" resolved, and what computes attention in rollouts and in updates."""
    backend = backends.get(model.backend)
    name = backend.name if backend.name == model.backend else f"{backend.name} ({model.backend})"
    paths = backend.attention_paths(model, engine.attend_lengths, engine.prefill_buckets)
    if len(set(paths.values())) == 1:
        return f"{name}; attention by {paths['rows']}"
    return f"{name}; attention " + ", ".join(f"of {each} by {by}" for each, by in paths.items())


def count_parameters(tree: PyTree) -> int:
    """Of all devices together."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _devices() -> str:
    devices, count = jax.devices(), jax.process_count()
    shared = "1 process" if count == 1 else f"{count} processes of {jax.local_device_count()}"
    kinds = dict.fromkeys((devices[0].platform, devices[0].device_kind))
    return f"{len(devices)} x {', '.join(kinds)}; {shared}"


def _mesh(mesh: Mesh | None) -> str:
    if mesh is None:
        return "one device"
    return " x ".join(f"{name} {size}" for name, size in mesh.shape.items())


def _backbone(config: RunConfig, state: TrainState) -> str:
    trained = count_parameters(state.trainable)
    whole = trained + count_parameters(state.frozen)
    share = (
        "all" if state.frozen is None else f"{trained:,}, LoRA of rank {config.model.lora_rank},"
    )
    return f"{config.backbone}, {config.model.init}: {whole:,} parameters, {share} trained"


def _dtypes(config: RunConfig, state: TrainState) -> str:
    parts = {"trained": state.trainable, "frozen": state.frozen, "reference": state.reference}
    texts = [f"{name} {_largest(tree).dtype}" for name, tree in parts.items() if tree is not None]
    texts += [f"products {config.model.compute_dtype}", f"cache {config.engine.cache_dtype}"]
    return ", ".join(texts)


def _largest(tree: PyTree) -> Any:
    return max(jax.tree.leaves(tree), key=lambda leaf: leaf.size)


def _judge(config: RunConfig) -> str:
    judge = config.judge
    return judge.kind if judge.kind == "offline" else f"{judge.model} at {judge.base_url}"


def _phase(config: RunConfig, phase: Phase) -> str:
    if phase.name == WARMUP:
        return f"{phase.name}: {phase.iterations} x {config.warmup.batch} demonstrations"
    groups, rollouts = config.curriculum.tasks_per_iteration, config.grpo.group_size
    return f"{phase.name}: {phase.iterations} x {groups} tasks x {rollouts} rollouts"
