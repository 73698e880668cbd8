"""Evaluation as a function."""

import dataclasses
import os
from collections.abc import Sequence

import ml_collections

from agemem_jax.evaluation.evaluate import Evaluator
from agemem_jax.evaluation.metrics import Measures
from agemem_jax.evaluation.recorded import measure_recorded
from agemem_jax.library.configuring import built
from agemem_jax.methods.registry import COMPARED, Method, find_method
from agemem_jax.plugins.registry import name_of
from agemem_jax.training.configuration import run_record
from agemem_jax.training.configuration.run_config import RunConfig


def evaluate(
    workdir: str | os.PathLike,
    config: str | os.PathLike | ml_collections.ConfigDict | RunConfig | None = None,
    *,
    methods: Sequence[str | Method] | None = None,
    tasks: int | None = None,
    temperature: float | None = None,
    checkpoint: str = "last",
) -> dict[str, Measures]:
    """Plays held-out tasks with each method, and measures what came out.

    It is what `agemem-evaluate` does, and shares its records: what is known already is not played
    again, and an evaluation that was interrupted goes on with what is missing.

    Args:
      workdir: of a training run, or where to keep results without one.
      config: what to evaluate where `workdir` holds no run; the backbone as it is.
      methods: to compare, by name, as `package.module:attribute`, or themselves; by default those
        of the paper that there are weights for.
      tasks: how many held-out tasks; by default as the run is configured.
      temperature: 0 is greedy; by default as the run is configured.
      checkpoint: whose weights: "last", "best", a step, a phase, or "phase/step".

    Returns:
      Measures by title of the method: `result["AgeMem"]["j"].mean` is the share of right answers.

    Raises:
      ValueError: something of the above is wrong, or every episode failed.
    """
    recorded = run_record.read(workdir)
    if recorded is None and config is None:
        raise ValueError(
            f"{os.fspath(workdir)} holds no training run; give a configuration to evaluate."
        )
    run = recorded or built(config)
    if recorded is not None and config is not None:
        run = built(config)
        run_record.refuse_conflicts(f"The run in {os.fspath(workdir)}", recorded, run)
    if tasks is not None:
        run = dataclasses.replace(run, tasks=dataclasses.replace(run.tasks, eval_size=tasks))
    if temperature is not None:
        played = dataclasses.replace(run.evaluation, temperature=temperature)
        run = dataclasses.replace(run, evaluation=played)
    run_record.check_folder(workdir)
    evaluator = Evaluator(run, workdir, checkpoint)
    try:
        found = _find(methods, trained=recorded is not None)
        return {each.title: measure_recorded(evaluator, name, each) for name, each in found.items()}
    finally:
        evaluator.close()


def _find(methods: Sequence[str | Method] | None, trained: bool) -> dict[str, Method]:
    """The methods by name, those that need a training run only where there is one."""
    if methods is None:
        known = {name: find_method(name) for name in COMPARED}
        return {name: each for name, each in known.items() if trained or not each.trained}
    found = {name_of(each): find_method(each) for each in methods}
    for name, each in found.items():
        if each.trained and not trained:
            raise ValueError(
                f"The method {name} plays with weights after reinforcement learning, and there is "
                "no training run."
            )
    return found
