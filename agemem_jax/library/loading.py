"""An agent from a training run, one of its checkpoints, or a backbone as it is."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from agemem_jax import configs
from agemem_jax.methods.registry import find_method
from agemem_jax.models.decoder import Weights
from agemem_jax.models.registry import BACKBONES
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.serving.agent.agent import Agent
from agemem_jax.serving.memory.sqlite_store import SQLiteStore
from agemem_jax.training import components
from agemem_jax.training.configuration import earlier_versions, run_config
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.policy import describe_weights, restore_weights

# What an agent asks of a run's record: who acts, by which rules. Neither tasks nor rewards, whose
# code may be elsewhere by now.
_NEEDED = (
    "seed", "method", "backbone", "model", "memory", "episode", "engine", "warmup", "warm_start",
    "evaluation",
)  # fmt: skip
# A backbone as it is has budgets that a laptop fills within seconds, and answers what it is told.
_EPISODE = {
    "max_context_tokens": 2048, "max_response_tokens": 384, "max_summary_tokens": 128,
    "rounds_per_message": 3,
}  # fmt: skip


def load_agent(
    source: str | os.PathLike,
    memory: str | os.PathLike | None = None,
    user: str = "user",
    *,
    checkpoint: str = "last",
    before_rl: bool = False,
    temperature: float | None = None,
    seed: int = 0,
    memory_entries: int = 4096,
    episode: Mapping[str, Any] | None = None,
) -> Agent:
    """Loads an agent to talk to; close it, or use it in a `with`.

    Args:
      source: the directory of a training run; one of its checkpoints, such as
        "runs/a/checkpoints/phases/joint/30"; or a backbone: a registered name, a directory in
        Hugging Face's format, a GGUF file, or a repository id of the hub.
      memory: file of its long-term memory, made where it is missing; None keeps the memory in this
        process, and it ends with the agent.
      user: whose memories in that file it reads and writes.
      checkpoint: of a run: "last", "best", a step, a phase, or "phase/step".
      before_rl: of a run, the policy before reinforcement learning.
      temperature: 0 takes the likeliest token; by default that of the run's evaluations, and 0 for
        a backbone.
      seed: of what is sampled.
      memory_entries: capacity of a user's memory; the run's own is that of an episode.
      episode: options of `EpisodeConfig` that differ from the run's, or from those of a backbone
        as it is: `{"prompt_style": "compact", "max_context_tokens": 1024}`.

    Returns:
      An `Agent` in a new conversation.

    Raises:
      ValueError: there is no such checkpoint, backbone or option; or the run's method has rules of
        its own, by which no conversation can be held.
      FileNotFoundError: weights are not there.
      BlockingIOError: another process has the memory open.
    """
    run, checkpoint = find_run(source, checkpoint)
    config = _config_of_backbone(os.fspath(source)) if run is None else _config_of_run(run)
    if run is not None:  # before anything is loaded
        describe_weights(config, run, trained=not before_rl, checkpoint=checkpoint)
    config = _for_one(config, episode or {})
    backbone = components.build_backbone(config, with_params=run is None)
    player = components.build_player(config, backbone)
    rules = find_method(config.method).rules(player, config.episode)
    if not isinstance(rules, EpisodeRules):
        raise ValueError(
            f"The method {config.method} plays tasks by rules of its own, by which no conversation "
            "can be held; an agent needs one of AgeMem's, such as 'agemem'."
        )
    store = SQLiteStore(memory, player.store.embedder, entries=memory_entries)
    try:
        if run is None:
            weights = Weights(backbone.params)
        else:
            weights = restore_weights(
                config, backbone, run, trained=not before_rl, checkpoint=checkpoint
            )
        if temperature is None:
            temperature = 0.0 if run is None else config.evaluation.temperature
        return Agent(player.engine, weights, rules, store, user, temperature=temperature, seed=seed)
    except BaseException:
        store.close()
        raise


def find_run(
    source: str | os.PathLike, checkpoint: str = "last"
) -> tuple[pathlib.Path | None, str]:
    """The run's directory, None for what is no run, and the checkpoint that is meant.

    Args:
      source: a run's directory, its checkpoints, or one of them.
      checkpoint: as of `load_agent`.

    Raises:
      ValueError: both name a checkpoint.
    """
    source = pathlib.Path(source)
    if _is_run(source):
        return source, checkpoint
    absolute = source.absolute()
    for folder in absolute.parents:
        if folder.name == "checkpoints" and _is_run(folder.parent):
            kind, *named = absolute.relative_to(folder).parts
            if checkpoint != "last":
                raise ValueError(
                    f"{source} is one checkpoint, and checkpoint={checkpoint!r} names another; "
                    "give one of them."
                )
            return folder.parent, "best" if kind == "best" else "/".join(named)
    if absolute.name == "checkpoints" and _is_run(absolute.parent):
        return absolute.parent, checkpoint
    return None, checkpoint


def _is_run(folder: pathlib.Path) -> bool:
    """Whether a training run is recorded there; models of Hugging Face have such a file, too."""
    try:
        return "backbone" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def _config_of_run(workdir: pathlib.Path) -> RunConfig:
    path = workdir / "config.json"
    try:
        values = earlier_versions.translate(json.loads(path.read_text()))
        needed = {name: values[name] for name in _NEEDED if name in values}
        # Of the packing only the longest row counts here, which must hold an episode.
        return run_config.from_dict({**needed, "packing": values["packing"]})
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}, the record of a run, cannot be read: {error}") from error


def _config_of_backbone(name: str) -> RunConfig:
    """The configuration that a backbone plays with as it is."""
    if name == "tiny":  # whose weights were made for these budgets
        return run_config.build(configs.load("tiny"))
    config = run_config.default_config()
    config.backbone = name
    config.episode.update(_EPISODE)
    spec = BACKBONES.get(name)
    if spec is not None and spec.weight_set is not None:
        config.episode.prompt_style = "compact"  # of the smallest, which long ones confuse
    config.engine.prefill_buckets = (32, 128)
    config.engine.attend_buckets = (512, 1024)
    return run_config.build(config)


def _for_one(config: RunConfig, episode: Mapping[str, Any]) -> RunConfig:
    """For one conversation, which a person follows token by token."""
    known = {field.name for field in dataclasses.fields(EpisodeConfig)}
    wrong = sorted(set(episode) - known)
    if wrong:
        raise ValueError(f"Unknown option episode.{wrong[0]}; known: {', '.join(sorted(known))}.")
    rules = dataclasses.replace(config.episode, **episode)
    engine = dataclasses.replace(
        config.engine, slots=1, prefill_rows=1, prefill_fewer_rows=(), decode_rows=(), chunk=8,
        max_length=rules.max_length,
    )  # fmt: skip
    packing = dataclasses.replace(config.packing, row_lengths=(rules.max_length,))
    return dataclasses.replace(config, episode=rules, engine=engine, packing=packing)
