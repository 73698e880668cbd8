"""Plays held-out tasks with each method under test and measures what came out."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

import jax
from absl import logging

from agemem_jax.evaluation.methods import METHODS, Method
from agemem_jax.evaluation.metrics import Measures, measure
from agemem_jax.models.decoder import Weights
from agemem_jax.rewards.memory_reward import memory_quality
from agemem_jax.rewards.total import Reward, compute_rewards
from agemem_jax.rollout.driver import Rollout
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.training import components, curriculum, run_config, train_state
from agemem_jax.training.checkpoints import Checkpoints
from agemem_jax.training.run_config import RunConfig


@dataclasses.dataclass(frozen=True)
class Played:
    """What one method did: measures, and the trajectories behind them."""

    measures: Measures
    trajectories: list[Trajectory]
    rewards: list[Reward]


class Evaluator:
    """Plays the same tasks with the same keys for every method.

    Weights before RL are those that closed the warm-up, or the backbone's own where
    there was none; weights after RL are the newest of the run.
    """

    def __init__(self, config: RunConfig, workdir: str | os.PathLike):
        self.config = config
        self._backbone = components.build_backbone(config)
        self._player = components.build_player(config, self._backbone)
        self._judge = components.build_judge(config, workdir)
        source = components.build_source(config, config.tasks.eval_split)
        self._tasks = [source[i] for i in range(min(config.tasks.eval_size, len(source)))]
        self._checkpoints = Checkpoints(pathlib.Path(workdir) / "checkpoints", read_only=True)
        self._fresh = train_state.create(
            self._backbone.config, self._backbone.params, config.optimizer,
            keep_reference=False, key=jax.random.key(config.seed),
        )  # fmt: skip

    def weights(self, trained: bool) -> Weights:
        """The policy's weights before or after reinforcement learning.

        Raises:
          ValueError: weights after RL are wanted and the run has no checkpoint.
        """
        infos = self._checkpoints.all()
        if trained:
            if not infos:
                raise ValueError(
                    f"{self._checkpoints.directory} holds no checkpoint; train first, or "
                    "evaluate only methods without RL."
                )
            info = infos[0]
        else:
            warmups = [info for info in infos if info.phase == curriculum.WARMUP]
            if not warmups:
                return train_state.weights(self._fresh)
            info = warmups[0]
        logging.info("Weights of %s", info.path)
        trainable = self._checkpoints.restore_trainable(info, self._fresh.trainable)
        return train_state.combine(trainable, self._fresh.frozen)

    def run(self, method: Method) -> Played:
        """Plays every task once."""
        config = self.config
        key = jax.random.key(config.evaluation.seed)
        rollouts = [
            Rollout(task, jax.random.fold_in(key, index)) for index, task in enumerate(self._tasks)
        ]
        trajectories = self._player.play(
            self.weights(method.trained), rollouts, method.episode(config.episode),
            config.evaluation.temperature,
        )  # fmt: skip
        rewards = compute_rewards(trajectories, config.rewards, self._judge)
        qualities = [
            memory_quality(t.memory, t.task.supporting_facts, t.task.stale_facts)
            for t in trajectories
        ]
        measures = measure(trajectories, rewards, qualities, config.evaluation.bootstrap_samples)
        return Played(measures, trajectories, rewards)


def find_methods(names: Sequence[str]) -> list[Method]:
    """The methods by name.

    Raises:
      ValueError: for a name that is not known.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"Unknown method {unknown[0]!r}; known: {', '.join(METHODS)}.")
    return [METHODS[name] for name in names]


def read_config(workdir: str | os.PathLike) -> RunConfig:
    """The configuration that a run was trained with.

    Raises:
      FileNotFoundError: there is no run in `workdir`.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; --workdir must name the directory of a training run."
        )
    return run_config.from_dict(json.loads(path.read_text()))
