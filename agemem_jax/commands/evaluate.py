"""Compares methods on held-out tasks: J, MQ, TN and TC with confidence intervals.

    agemem-evaluate --workdir=runs/a --methods=agemem_norl,agemem
    agemem-evaluate --workdir=runs/untrained --config=quickstart
    agemem-evaluate --workdir=runs/a --task_source=babyai --task_source=locomo --tasks=20 \\
        --methods=random,expert,agemem

Reads the configuration and the checkpoints of the training run in the work directory, or,
where there is none, the configuration that --config names: then it evaluates the backbone as
it is. Another judge than the run's scores with --judge.kind=offline, or with --judge.kind=llm
--judge.base_url=... --judge.model=...  Other tasks than the run's are played with --task_source, as
often as there are such; with the weights of another checkpoint than the newest with --checkpoint.
Prints tables and writes them into evaluation.md, all means into evaluation.json and
evaluation.csv, learning_curve.png, trajectories.md and, of all that is there, report.html. An LLM
judge is asked by every prompt of --judge.prompts, and about wrong answers as well
(docs/metrics.md).

Results are kept by method and settings in the folder evaluation/ of the work directory, each
episode as it ends: the same command goes on with what is missing, whatever ended the one before
(SIGTERM and Ctrl-C do with status 75), and prints what is known already; other methods, tasks and
settings come beside it. --again plays everything anew.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import rich
from absl import app, flags, logging

from agemem_jax.commands import cli
from agemem_jax.commands.checkpoint_flag import CHECKPOINT
from agemem_jax.commands.config_flag import CONFIG
from agemem_jax.commands.evaluation_flags import PLAYED, SOURCES, TASKS
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.evaluation import reports
from agemem_jax.evaluation.evaluate import Evaluator
from agemem_jax.evaluation.metrics import Measures
from agemem_jax.evaluation.recorded import SHOWN, measure_recorded
from agemem_jax.evaluation.records import Records
from agemem_jax.methods.registry import COMPARED, Method, find_methods
from agemem_jax.report.write import try_to_write_report
from agemem_jax.rewards.judge_prompts import ANSWER_PROMPTS
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.training.configuration import run_config, run_record
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.interruption import Interruption
from agemem_jax.training.monitoring.metrics import read_metrics
from agemem_jax.training.policy import describe_weights

_TEMPERATURE = flags.DEFINE_float("temperature", None, "0 is greedy; default: the run's.", 0.0)
_JUDGE = {
    "kind": flags.DEFINE_enum("judge.kind", None, ["offline", "llm"], "Default: the run's."),
    "base_url": flags.DEFINE_string("judge.base_url", None, "Default: the run's."),
    "model": flags.DEFINE_string("judge.model", None, "Default: the run's."),
    "prompts": flags.DEFINE_list(
        "judge.prompts",
        None,
        "By which an LLM judge is asked about answers; the first gives J. "
        f"There are {', '.join(ANSWER_PROMPTS.names)}; default: the run's.",
    ),
    "required": flags.DEFINE_bool("judge.required", None, "Default: the run's."),
}
_SHOW = flags.DEFINE_integer("show", SHOWN, "Trajectories per method in trajectories.md.", 0)
_AGAIN = flags.DEFINE_bool("again", False, "Play what is known already, too.")
_INDEX = flags.DEFINE_string(
    "index", None, "File, below the work directory, that says which records were asked for."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    workdir = pathlib.Path(WORKDIR.value)
    config, trained = _configuration(workdir)
    methods = _methods(trained)
    if any(method.trained for method in methods.values()):  # before anything is loaded
        describe_weights(config, workdir, trained=True, checkpoint=CHECKPOINT.value)
    run_record.check_folder(workdir)
    # Where others are asked for, the run's own tasks need not be at hand.
    first, *others = _sources(config) or [config.tasks]
    config = dataclasses.replace(config, tasks=first)
    interruption = Interruption()
    with cli.stoppable(interruption):
        evaluator = Evaluator(config, workdir, CHECKPOINT.value)
        evaluators = [evaluator, *(evaluator.on(tasks) for tasks in others)]
        interruption.begin(lambda: True)  # every episode is kept as it ends
        try:
            results = {
                title: _evaluate(each, methods, interruption)
                for title, each in zip(_titles(evaluators), evaluators, strict=True)
            }
            if _INDEX.value is not None:
                _write_index(workdir / _INDEX.value, evaluators, methods, Records(workdir))
        finally:
            evaluator.close()
    tables = [
        table
        for title, measures in results.items()
        for table in reports.render_tables(measures, title, config.judge.title)
    ]
    tables += [reports.render_overview(results)] if len(results) > 1 else []
    for table in tables:
        rich.print(table)
    reports.write_tables(workdir / "evaluation.md", tables)
    if (workdir / "metrics.jsonl").exists():
        metrics = read_metrics(workdir / "metrics.jsonl")
        reports.write_learning_curve(
            workdir / "learning_curve.png", metrics, tuple(config.rewards.components)
        )
    report = try_to_write_report(workdir)
    rich.print(f"Wrote evaluation.json, .csv, .md, trajectories.md and the curve to {workdir}")
    if report is not None:
        rich.print(f"All of it to look at in a browser: {report}")


def _titles(evaluators: Sequence[Evaluator]) -> list[str]:
    """What tables are headed by; sources of one name are told apart by what was asked for."""
    names = [each.config.tasks.name for each in evaluators]
    if len(set(names)) < len(names):
        names = [text.replace(" ", "") for text in SOURCES.value]
    return [
        f"{name} {each.config.tasks.held_out_split}, {each.config.backbone}, seed "
        f"{each.config.seed}"
        for name, each in zip(names, evaluators, strict=True)
    ]


def _write_index(
    path: pathlib.Path,
    evaluators: Sequence[Evaluator],
    methods: Mapping[str, Method],
    records: Records,
) -> None:
    """Where the records of this command are, by source and method; whole or not at all."""
    sources = SOURCES.value or [evaluators[0].config.tasks.name]
    rows = [
        {"task_source": source, "method": name, **records.paths(name, each.settings(method))}
        for source, each in zip(sources, evaluators, strict=True)
        for name, method in methods.items()
    ]
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps({"records": rows}, indent=2) + "\n")
    unfinished.replace(path)


def _sources(config: RunConfig) -> list[TaskConfig]:
    """The tasks that --task_source asks for."""
    size = config.tasks.eval_size
    return [TaskConfig(source, eval_size=size) for source in SOURCES.value]


def _configuration(workdir: pathlib.Path) -> tuple[RunConfig, bool]:
    """What to evaluate, and whether there is a training run."""
    recorded = run_record.read(workdir)
    given = None if CONFIG.value is None else run_config.build(CONFIG.value)
    if recorded is None and given is None:
        raise ValueError(
            f"{workdir / 'config.json'} does not exist; --workdir must name the directory of a "
            "training run, or --config what to evaluate without one."
        )
    if recorded is not None and given is not None:
        run_record.refuse_conflicts(f"The run in {workdir}", recorded, given)
    config = given or recorded
    if TASKS.value is not None:
        tasks = dataclasses.replace(config.tasks, eval_size=TASKS.value)
        config = dataclasses.replace(config, tasks=tasks)
    if _TEMPERATURE.value is not None:
        evaluation = dataclasses.replace(config.evaluation, temperature=_TEMPERATURE.value)
        config = dataclasses.replace(config, evaluation=evaluation)
    changes = {name: flag.value for name, flag in _JUDGE.items() if flag.value is not None}
    if "prompts" in changes:
        changes["prompts"] = tuple(changes["prompts"])
    config = dataclasses.replace(config, judge=dataclasses.replace(config.judge, **changes))
    return config, recorded is not None


def _methods(trained: bool) -> dict[str, Method]:
    """The methods asked for; without a training run, those that need none."""
    known = find_methods(COMPARED)
    if PLAYED.value is None:
        return {name: m for name, m in known.items() if trained or not m.trained}
    methods = find_methods(PLAYED.value)
    without = [name for name, method in known.items() if not method.trained]
    for name, method in methods.items():
        if method.trained and not trained:
            raise ValueError(
                f"Method {name} plays with weights after reinforcement learning, and the "
                f"work directory holds no training run; without one there are {', '.join(without)}."
            )
    return methods


def _evaluate(
    evaluator: Evaluator, methods: Mapping[str, Method], interruption: Interruption
) -> dict[str, Measures]:
    """Measures by title; plays what is not recorded yet."""
    return {
        method.title: measure_recorded(
            evaluator,
            name,
            method,
            shown=_SHOW.value,
            again=_AGAIN.value,
            check=interruption.check,
        )  # fmt: skip
        for name, method in methods.items()
    }


def run():
    cli.run(main)
