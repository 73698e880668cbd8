"""Trajectories of training, written as it goes, for people to read.

`samples/<step>.md` in the work directory is to be read, `samples/<step>.jsonl` has the same
trajectories as JSON, and the other rollouts of some tasks; the report shows them all. A run that
is taken up again writes its own files anew.
"""

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from agemem_jax.parallel import processes
from agemem_jax.rewards.total import Reward
from agemem_jax.rewards.trajectory_markdown import render_trajectories
from agemem_jax.rollout import trajectory_json
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.training.configuration.monitoring_config import SamplesConfig


class Samples:
    """Writes the samples of one run, in the first process of a job."""

    def __init__(self, config: SamplesConfig, workdir: str | os.PathLike):
        self._config = config
        self._folder = epath.Path(workdir) / "samples"

    def write(
        self,
        step: int,
        played: Sequence[Trajectory],
        rewards: Sequence[Reward],
        trained: Sequence[Trajectory],
        advantages: Sequence[Any],
    ) -> bool:
        """Writes some of the trajectories of the iteration `step`, if it is its turn.

        A disk that does not take them costs these samples only.

        Args:
          step: counted from 1, as in `metrics.jsonl`.
          played: this process's episodes that did not fail, group after group.
          rewards: theirs.
          trained: those of them that are trained on.
          advantages: of each of those, one number or one for each of its steps.

        Returns:
          Whether it was this iteration's turn, and this process's.
        """
        every = self._config.every
        if not every or (step - 1) % every or not played or not processes.is_primary():
            return False
        known = {id(t): a for t, a in zip(trained, advantages, strict=True)}
        count = min(self._config.count, len(played))
        chosen = [index * len(played) // count for index in range(count)]
        groups = _groups(played)
        whole = list(dict.fromkeys(groups[index] for index in chosen))[: self._config.groups]
        written = sorted({*chosen, *(i for i, g in enumerate(groups) if g in whole)})
        lines = [
            _line(index, groups[index], played[index], rewards[index], known.get(id(played[index])))
            for index in written
        ]
        pairs = [(played[index], rewards[index]) for index in chosen]
        told = [_told(known.get(id(played[index]))) for index in chosen]
        text = f"# Step {step}\n\n{render_trajectories(pairs, told)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{step}.md").write_text(text)
            (self._folder / f"{step}.jsonl").write_text("".join(f"{line}\n" for line in lines))
            self._forget()
        except OSError as error:
            logging.error("The samples of step %d could not be written: %s", step, error)
        return True

    def _forget(self) -> None:
        """Removes the files of all but the newest steps."""
        files = [path for path in self._folder.iterdir() if path.stem.isdigit()]
        steps = sorted({int(path.stem) for path in files})
        for path in files:
            if int(path.stem) in steps[: -self._config.keep]:
                path.unlink()


def _groups(played: Sequence[Trajectory]) -> list[int]:
    """The number of each one's group: rollouts of a task follow each other."""
    runs = itertools.groupby(played, lambda trajectory: trajectory.task.task_id)
    return [number for number, (_, run) in enumerate(runs) for _ in run]


def _line(index: int, group: int, trajectory: Trajectory, reward: Reward, advantage: Any) -> str:
    values = json.loads(trajectory_json.to_line(index, trajectory))
    values["group"] = group
    values["reward"] = reward.values
    values["advantage"] = None if advantage is None else np.asarray(advantage).tolist()
    return json.dumps(values, ensure_ascii=False)


def _told(advantage: Any) -> str:
    if advantage is None:
        return "It is not trained on."
    values = np.unique(advantage) if np.ptp(advantage) == 0 else np.ravel(advantage)
    numbers = ", ".join(f"{value:.2f}" for value in values)
    return f"Advantage: {numbers}."
