"""Evaluation inside training: held-out tasks, played as they are trained on, and what it means.

Every task has its key from the evaluation's seed and its place, so an evaluation is the same
whenever it is made with the same weights, by however many processes; training draws nothing
from it. The player is that of training, so nothing is compiled a second time. Episodes and
rewards are those of the whole run, in every phase of a curriculum.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from agemem_jax.methods.registry import Method
from agemem_jax.models.decoder import Weights
from agemem_jax.parallel import processes
from agemem_jax.rewards import measures
from agemem_jax.rewards.estimates import bootstrap
from agemem_jax.rewards.judges import Judge
from agemem_jax.rewards.total import ask_ahead, compute_rewards
from agemem_jax.rollout.driver import Rollout
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task
from agemem_jax.training import components
from agemem_jax.training.checkpoints.position import Position
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.curriculum import WARMUP, Phase
from agemem_jax.training.monitoring.summary import summarise, with_judge_counts
from agemem_jax.training.monitoring.throughput import Stopwatch


class PhaseStopped(Exception):
    """A phase has not become better for so long that it ends here."""


def validation_tasks(config: RunConfig) -> tuple[str, list[Task]]:
    """The split and the tasks of a run's validation; see `ValidationConfig`.

    Where the split is that of the final evaluation, tasks that it does not play come first.
    """
    tasks, count = config.tasks, config.validation.tasks
    held_out = tasks.held_out_split
    others = [split for split in tasks.splits[1:] if split != held_out]
    split = config.validation.split or next(iter(others), held_out)
    source = tasks.load(split)
    chosen = list(range(len(source)))
    if split == held_out:
        last = set(tasks.held_out_places(len(source)))
        free = [index for index in chosen if index not in last]
        if len(free) < count:
            shared = min(count - len(free), len(last))
            logging.warning(
                "%d of the tasks of the validation are tasks of the final evaluation, too: split "
                "%s of %s has %d others; lower tasks.eval_size or validation.tasks.",
                shared, split, tasks.name, len(free),
            )  # fmt: skip
            free += sorted(last)[:shared]
        chosen = free
    count = min(count, len(chosen))
    step = len(chosen) / count if tasks.sorted else 1
    return split, [source[chosen[int(index * step)]] for index in range(count)]


class Validation:
    """Plays the validation of a run, where it has one, and says what comes of it.

    Attributes:
      settings: tells what values depend on that can be compared; see `Standing`.
      split, tasks: that are played; none where the run has no validation.
    """

    def __init__(self, config: RunConfig, player: Player, method: Method, judge: Judge):
        self._config, self._options = config, config.validation
        self._judge, self._method = judge, method
        self._process, self._processes = jax.process_index(), jax.process_count()
        self.split, self.tasks = "", []
        self.settings = ""
        self._player = player
        if self._options.every:
            self.split, self.tasks = validation_tasks(config)
            self._player = player.playing(components.goals_of(self.tasks))
            self.settings = self._digest()

    def _digest(self) -> str:
        values = {
            "tasks": components.identify_tasks(self.tasks),
            "metric": self._options.metric,
            "temperature": self._temperature,
            "seed": self._config.evaluation.seed,
            "judge": self._config.judge.title,
        }
        return hashlib.blake2b(json.dumps(values).encode(), digest_size=6).hexdigest()

    @property
    def _temperature(self) -> float:
        given = self._options.temperature
        return self._config.evaluation.temperature if given is None else given

    def is_due(self, phase: Phase, position: Position) -> bool:
        """Whether the policy is evaluated where the run stands, and has not been yet."""
        every, iteration = self._options.every, position.iteration
        if not every or phase.name == WARMUP or position.standing.evaluated == position.step:
            return False
        return iteration % every == 0 or iteration == phase.iterations

    def is_over(self, position: Position) -> bool:
        """Whether patience with the phase under way is at its end."""
        patience = self._options.patience
        return bool(patience) and position.standing.without_gain >= patience

    def run(
        self,
        weights: Callable[[], Weights],
        check: Callable[[], None],
        agree: Callable[[], None],
    ) -> tuple[float | None, dict[str, Any], dict[str, float]]:
        """Plays all tasks once; every process of a job plays its share, and must call this.

        Args:
          weights: gives those of the policy.
          check: called between two ticks; what it raises ends this.
          agree: called when this process has played its share; likewise.

        Returns:
          (the value that the best is chosen by, metrics under "eval/...", seconds).
        """
        clock = Stopwatch()
        own = range(self._process, len(self.tasks), self._processes)
        key = jax.random.key(self._config.evaluation.seed)
        rollouts = [Rollout(self.tasks[i], jax.random.fold_in(key, i)) for i in own]
        rules = self._method.rules(self._player, self._config.episode)
        rewards = self._config.rewards
        ask = functools.partial(ask_ahead, config=rewards, judge=self._judge)
        played = self._player.play(weights(), rollouts, rules, self._temperature, check, ask)
        agree()
        value, values = self._measure(list(own), played)
        return value, values, {"eval/seconds": clock.total}

    def _measure(
        self, places: Sequence[int], played: Sequence[Trajectory]
    ) -> tuple[float | None, dict[str, Any]]:
        intact = [(i, t) for i, t in zip(places, played, strict=True) if t.fault is None]
        for fault in (t.fault for t in played if t.fault is not None):
            logging.error("Left out of the evaluation: %s", fault)
        trajectories = [trajectory for _, trajectory in intact]
        rewards = compute_rewards(trajectories, self._config.rewards, self._judge)
        means = with_judge_counts(summarise(trajectories, rewards), self._judge)
        own = []
        for (place, trajectory), reward in zip(intact, rewards, strict=True):
            known = {
                **measures.of_reward(reward),
                **measures.of_goal(trajectory, reward),
                **measures.of_play(trajectory),
            }
            own.append((place, known.get(self._options.metric)))
        # In the order of the tasks, whoever has played them.
        found = sorted((place, value) for part in processes.gather(own) for place, value in part)
        known = [value for _, value in found if value is not None]
        values = {f"eval/{name}": value for name, value in means.items()}
        failed = len(self.tasks) - len(found)
        values |= {"eval/tasks": len(found), "eval/failed": failed}
        if not known:
            logging.error("The evaluation gave no value of %s.", self._options.metric)
            return None, values
        samples = self._config.evaluation.bootstrap_samples
        estimate = bootstrap(np.array(known), samples)
        values |= {
            f"eval/{self._options.metric}": estimate.mean,
            f"eval/{self._options.metric}_low": estimate.low,
            f"eval/{self._options.metric}_high": estimate.high,
        }
        return estimate.mean, values

    def describe(self) -> str:
        """For the log."""
        if not self.tasks:
            return "none"
        return (
            f"{len(self.tasks)} tasks of {self.split}, every {self._options.every} iterations, by "
            f"{self._options.metric}"
        )
