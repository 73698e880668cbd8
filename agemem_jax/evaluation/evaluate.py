"""Plays held-out tasks with each method under test and measures what came out."""

import copy
import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging

from agemem_jax.evaluation.hygiene import hygiene_rows
from agemem_jax.evaluation.judging import judged_rows
from agemem_jax.evaluation.metrics import Measures, measure, rows_of
from agemem_jax.evaluation.records import Episodes
from agemem_jax.methods.registry import Method
from agemem_jax.models.decoder import Weights
from agemem_jax.parallel.mesh import MeshConfig, make_rollout_mesh
from agemem_jax.rewards import answer_f1
from agemem_jax.rewards.memory_reward import memory_qualities
from agemem_jax.rewards.total import Reward, ask_ahead, compute_rewards
from agemem_jax.rollout.driver import Rollout
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.pipeline import TaskSource
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.tasks.task import Task
from agemem_jax.training import components
from agemem_jax.training.configuration import run_record
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.policy import describe_weights, restore_weights


@dataclasses.dataclass(frozen=True)
class Played:
    """What one method did: measures, and the trajectories behind them.

    Failed episodes are left out of all and say what happened in `faults`; `rows` are what the
    measures are means of.
    """

    measures: Measures
    trajectories: list[Trajectory]
    rewards: list[Reward]
    faults: tuple[str, ...] = ()
    rows: Sequence[dict[str, float | None]] = ()


class Evaluator:
    """Plays the same tasks with the same keys for every method, on all devices of this process.

    Weights are those of `training.policy.restore_weights`, the trained ones of `checkpoint`.
    """

    def __init__(self, config: RunConfig, workdir: str | os.PathLike, checkpoint: str = "last"):
        self._checkpoint = checkpoint
        self.config = config = _for_devices(config, jax.local_device_count())
        self.workdir = workdir
        self._mesh = make_rollout_mesh(config.mesh)
        self._judge = components.build_judge(config, workdir)  # first: it may refuse to go on
        # What full training has replaced is not read, unless it is what is evaluated.
        self._backbone = components.build_backbone(
            config, self._mesh, with_params=config.model.lora_rank > 0
        )
        source = config.tasks.load(config.tasks.held_out_split)
        self._player = components.build_player(config, self._backbone, self._mesh, source)
        self._tasks = _held_out(source, config)

    def on(self, tasks: TaskConfig) -> "Evaluator":
        """An evaluator of the same policy on other tasks; it compiles nothing again."""
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, tasks=tasks)
        source = tasks.load(tasks.held_out_split)
        past = components.past_tasks(tasks)
        other._player = self._player.playing(components.goals_of(source), past)
        other._tasks = _held_out(source, other.config)
        return other

    def close(self) -> None:
        """Ends the processes of environments."""
        self._player.environments.close()

    def weights(self, trained: bool) -> Weights:
        """The policy's weights before or after reinforcement learning."""
        return restore_weights(
            self.config, self._backbone, self.workdir, trained=trained,
            checkpoint=self._checkpoint, mesh=self._mesh,
        )  # fmt: skip

    def settings(self, method: Method) -> dict[str, Any]:
        """What the figures of `method` depend on, as JSON values."""
        config = self.config
        fixed = run_record.fixed_values(config)
        return {
            "tasks": {
                "name": config.tasks.name,
                "split": config.tasks.held_out_split,
                **components.identify_tasks(self._tasks),
            },
            "temperature": config.evaluation.temperature,
            "seed": config.evaluation.seed,
            "judge": config.judge.title,
            **self._prompts(),
            "backbone": config.backbone,
            "training_seed": config.seed,
            "configuration": hashlib.blake2b(
                json.dumps(fixed, sort_keys=True).encode(), digest_size=6
            ).hexdigest(),
            "weights": describe_weights(
                config, self.workdir, trained=method.trained, checkpoint=self._checkpoint
            ),
        }

    def _prompts(self) -> dict[str, Any]:
        """Which wordings an LLM judge is asked by."""
        if self.config.judge.kind == "offline":
            return {}
        prompts = self._judge.description()["prompts"]
        return {"judge_prompts": {name: prompt["id"] for name, prompt in prompts.items()}}

    def run(
        self, method: Method, episodes: Episodes, check: Callable[[], None] = lambda: None
    ) -> Played:
        """Plays every task once, but those that `episodes` knows already.

        An exception that `check` raises between two ticks ends it; what has ended until then is
        kept in `episodes`.

        Raises:
          ValueError: every episode failed.
        """
        config = self.config
        ask = functools.partial(ask_ahead, config=config.rewards, judge=self._judge)
        known = episodes.known(self._tasks)
        for index, trajectory in known.items():
            ask(index, trajectory)
        left = [index for index in range(len(self._tasks)) if index not in known]
        if known:
            logging.info("%d episodes are there already, %d are left", len(known), len(left))

        def keep(place: int, trajectory: Trajectory) -> None:
            episodes.add(left[place], trajectory)
            ask(place, trajectory)

        if left:
            key = jax.random.key(config.evaluation.seed)
            rollouts = [Rollout(self._tasks[i], jax.random.fold_in(key, i)) for i in left]
            new = self._player.play(
                self.weights(method.trained), rollouts, method.rules(self._player, config.episode),
                config.evaluation.temperature, check, keep,
            )  # fmt: skip
            known |= dict(zip(left, new, strict=True))
        played = [known[index] for index in range(len(self._tasks))]
        trajectories, faults = split_failed(played, method.title)
        rewards = compute_rewards(trajectories, config.rewards, self._judge)
        qualities = memory_qualities(trajectories, self._judge)
        judged = judged_rows(trajectories, self._judge, config.evaluation.wrong_answers)
        hygiene = hygiene_rows(trajectories)
        others = [{**a, **b} for a, b in zip(judged, hygiene, strict=True)]
        measures = measure(
            trajectories, rewards, qualities, config.evaluation.bootstrap_samples, len(faults),
            others,
        )  # fmt: skip
        measures = dataclasses.replace(
            measures, judge=self._judge.take_counts(), judged_by=self._judge.description()
        )
        rows = rows_of(trajectories, rewards, qualities, others)
        return Played(measures, trajectories, rewards, faults, rows)


def _held_out(source: TaskSource, config: RunConfig) -> list[Task]:
    """The tasks that are evaluated. Raises ImportError where their answers cannot be counted."""
    tasks = config.tasks.held_out(source)
    answer_f1.check(tasks)
    return tasks


def split_failed(
    played: Sequence[Trajectory], title: str
) -> tuple[list[Trajectory], tuple[str, ...]]:
    """The trajectories to measure, and what ended the others; each of these is logged.

    Raises:
      ValueError: there is nothing to measure.
    """
    intact = [trajectory for trajectory in played if trajectory.fault is None]
    faults = tuple(trajectory.fault for trajectory in played if trajectory.fault is not None)
    for fault in faults:
        logging.error("Left out of %s: %s", title, fault)
    if not intact:
        raise ValueError(
            f"All {len(faults)} episodes of {title} failed, so there is nothing to measure; the "
            f"last one like this: {faults[-1]}"
        )
    return intact, faults


def _for_devices(config: RunConfig, devices: int) -> RunConfig:
    """The run's configuration on so many devices, which may be others than it was trained on."""
    tensor = math.gcd(config.mesh.rollout_tensor or config.mesh.tensor, devices)
    shards = devices // tensor
    slots = -(-config.engine.slots // shards) * shards
    return dataclasses.replace(
        config,
        mesh=MeshConfig(rollout_tensor=tensor),
        engine=dataclasses.replace(config.engine, slots=slots),
    )
