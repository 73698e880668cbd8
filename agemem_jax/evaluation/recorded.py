"""What a method does, played where it is not recorded yet, and recorded."""

import os
from collections.abc import Callable

from absl import logging

from agemem_jax.evaluation import reports
from agemem_jax.evaluation.evaluate import Evaluator
from agemem_jax.evaluation.metrics import Measures
from agemem_jax.evaluation.records import Record, Records
from agemem_jax.methods.registry import Method
from agemem_jax.rewards.trajectory_markdown import render_trajectories

SHOWN = 8  # trajectories of a method in trajectories.md


def measure_recorded(
    evaluator: Evaluator,
    name: str,
    method: Method,
    *,
    shown: int = SHOWN,
    again: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Measures:
    """The measures of a method, from its record or by playing what that lacks.

    Writes the record and the tables of all records (`reports.write_results`).

    Args:
      evaluator: whose tasks are played.
      name: of the method, under which it is recorded.
      method: to measure.
      shown: trajectories that are written for people to read.
      again: play what is recorded, too.
      check: called between ticks; an exception that it raises ends everything, and episodes that
        have ended are kept.

    Raises:
      ValueError: every episode failed.
    """
    records, settings = Records(os.fspath(evaluator.workdir)), evaluator.settings(method)
    record = None if again else records.find(name, settings)
    if record is None:
        logging.info("Playing %s on %s", method.title, evaluator.config.tasks.name)
        records.set_old_results_aside()
        episodes = records.episodes(name, settings)
        if again:
            episodes.forget()
        played = evaluator.run(method, episodes, check)
        pairs = list(zip(played.trajectories, played.rewards, strict=True))
        record = Record(
            name, method.title, settings, played.measures,
            tasks=[{"task_id": t.task.task_id, **r.values} for t, r in pairs],
            trajectories=render_trajectories(pairs[:shown]), rows=played.rows,
        )  # fmt: skip
        records.write(record)
    else:
        logging.info("%s is known already, and not played anew.", method.title)
    reports.write_results(evaluator.workdir, records.all())
    return record.measures
