"""Compares methods on held-out tasks: J, MQ, TN and TC with confidence intervals.

    agemem-evaluate --workdir=runs/a --methods=agemem_norl,agemem

Reads the configuration and the checkpoints of the training run in the work directory;
prints two tables and writes evaluation.json, evaluation.csv, learning_curve.png and
trajectories.md beside them.
"""

import dataclasses
import pathlib

import rich
from absl import app, flags, logging

from agemem_jax.commands import cli
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.evaluation import reports
from agemem_jax.evaluation.evaluate import Evaluator, find_methods
from agemem_jax.evaluation.methods import METHODS
from agemem_jax.training.metrics import read_metrics
from agemem_jax.training.run_record import read_config

_METHODS = flags.DEFINE_list("methods", list(METHODS), "Methods to compare, in this order.")
_TASKS = flags.DEFINE_integer("tasks", None, "Held-out tasks; default: the run's.", 1)
_TEMPERATURE = flags.DEFINE_float("temperature", None, "0 is greedy; default: the run's.", 0.0)
_SHOW = flags.DEFINE_integer("show", 8, "Trajectories per method in trajectories.md.", 0)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    workdir = pathlib.Path(WORKDIR.value)
    methods = find_methods(_METHODS.value)
    config = read_config(workdir)
    if _TASKS.value is not None:
        tasks = dataclasses.replace(config.tasks, eval_size=_TASKS.value)
        config = dataclasses.replace(config, tasks=tasks)
    if _TEMPERATURE.value is not None:
        evaluation = dataclasses.replace(config.evaluation, temperature=_TEMPERATURE.value)
        config = dataclasses.replace(config, evaluation=evaluation)

    evaluator = Evaluator(config, workdir)
    results, shown = {}, {}
    for method in methods:
        logging.info("Playing %s", method.title)
        played = evaluator.run(method)
        results[method.title] = played.measures
        pairs = zip(played.trajectories, played.rewards, strict=True)
        shown[method.title] = list(pairs)[: _SHOW.value]

    title = (
        f"{config.tasks.name} {config.tasks.held_out_split}, {config.backbone}, seed {config.seed}"
    )
    for table in reports.render_tables(results, title):
        rich.print(table)
    settings = {"temperature": config.evaluation.temperature, "seed": config.seed, "title": title}
    reports.write_results(workdir, results, settings)
    reports.write_trajectories(workdir / "trajectories.md", shown)
    if (workdir / "metrics.jsonl").exists():
        metrics = read_metrics(workdir / "metrics.jsonl")
        reports.write_learning_curve(workdir / "learning_curve.png", metrics)
    rich.print(f"Wrote evaluation.json, .csv, trajectories.md and the curve to {workdir}")


def run():
    cli.run(main)
