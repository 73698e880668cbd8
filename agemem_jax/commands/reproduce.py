"""The paper's tables and figures by one command: train, evaluate every method, render.

    agemem-reproduce --config=quickstart --workdir=runs/paper --tasks=100
    agemem-reproduce --config=quickstart --workdir=runs/paper --render=figure4,table4
    agemem-reproduce --config=smollm2_hotpotqa --workdir=runs/smollm2_paper --beside=runs/paper \\
        --task_source=alfworld --task_source=hotpotqa --methods=no_memory,mem0,agemem \\
        --train_methods=mem0

Trains what the tables and figures named by --render need, with every seed; plays all methods on
every benchmark (--task_source, else the run's tasks); and writes them into WORKDIR/paper as
Markdown, CSV, LaTeX, HTML, SVG and PNG, of stored records only. Without --render it makes those
that need one training run per seed. A method of --train_methods is trained by the same
reinforcement learning as AgeMem, in runs of its own, and is a row more. Rows of other backbones
come from the work directories that --beside names.

Each run has a folder, WORKDIR/runs/VARIANT/SEED. The same command goes on where it was stopped,
whatever ended it; more seeds, methods, benchmarks and figures come beside what is there. With
--only_render nothing is played, and what is missing is a dash. A figure of a table leads to its
records and trajectories: open WORKDIR/paper/index.html, or see the JSON file beside each table.
"""

import pathlib
import shlex
import sys

import rich
from absl import app, flags, logging
from rich.markdown import Markdown

from agemem_jax.commands import cli, running
from agemem_jax.commands.config_flag import CONFIG
from agemem_jax.commands.evaluation_flags import PLAYED, SOURCES, TASKS
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.evaluation.paper import studies, writing
from agemem_jax.evaluation.paper.plan import Plan
from agemem_jax.evaluation.paper.render import render
from agemem_jax.methods.registry import find_methods
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.training.configuration import run_config

_RENDER = flags.DEFINE_list(
    "render", [], f"Tables and figures: {', '.join(studies.STUDIES)}, or all; default: those that "
    "need one training run per seed.",
)  # fmt: skip
_TRAIN = flags.DEFINE_list("train_methods", [], "Methods that are trained by the same RL, too.")
_THETAS = flags.DEFINE_list("thetas", ["0.4", "0.5", "0.6", "0.7", "0.8"], "Of the study theta.")
_DISTRACTORS = flags.DEFINE_list("distractors", ["0", "2", "4", "8"], "Of the study distractors.")
_BESIDE = flags.DEFINE_multi_string(
    "beside", [], "Work directory of another such command, whose rows come below; to be repeated."
)
_PLAYING = flags.DEFINE_string(
    "evaluate_with",
    "",
    "More flags of agemem-evaluate, such as '--temperature=0'.",
)
_ONLY_RENDER = flags.DEFINE_bool("only_render", False, "Play and train nothing.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    workdir = pathlib.Path(WORKDIR.value)
    names = studies.find(_RENDER.value)
    beside = [Plan.read(pathlib.Path(folder)) for folder in _BESIDE.value]
    if "table5" in names and not beside:
        raise ValueError(
            "table5 is table 4 for other backbones; name their work directories with --beside."
        )
    if _ONLY_RENDER.value and CONFIG.value is None:
        plan = Plan.read(workdir)
    else:
        plan = _plan(workdir, names)
    made = render(workdir / "paper", [plan, *beside], names)
    for table in made.values():
        rich.print(Markdown(writing.markdown(table)))
    rich.print(f"Wrote {', '.join(made)} to {workdir / 'paper'}; index.html leads to all of it")


def _plan(workdir: pathlib.Path, names: list[str]) -> Plan:
    """What is asked for, with everything trained and played that it needs."""
    if CONFIG.value is None:
        raise app.UsageError("--config is missing; it names what is trained and compared.")
    asked = _request()
    plan = Plan.make(workdir, asked, names, running.seeds())
    if _ONLY_RENDER.value:
        return plan
    plan = plan.write()
    own = running.own_configuration(sys.argv[1:])
    playing = [*shlex.split(_PLAYING.value)]
    playing += [] if TASKS.value is None else [f"--tasks={TASKS.value}"]
    running.complete_all(
        [
            running.Job(
                f"{variant}, seed {seed}",
                plan.folder(variant, seed),
                plan.steps(variant, seed, own, playing, asked),
            )  # fmt: skip
            for seed in plan.seeds  # so that all variants are compared early
            for variant in plan.variants
        ]
    )
    return plan


def _request() -> studies.Request:
    """What the flags ask for; refuses what would fail hours later."""
    config = run_config.build(CONFIG.value)
    methods = tuple(PLAYED.value or studies.every_method())
    find_methods([*methods, *_TRAIN.value])
    for text in SOURCES.value:
        TaskConfig(text)
    return studies.Request(
        config=config,
        benchmarks=tuple(SOURCES.value),
        methods=methods,
        train_methods=tuple(_TRAIN.value),
        thetas=tuple(_numbers("thetas", _THETAS.value, float)),
        distractors=tuple(_numbers("distractors", _DISTRACTORS.value, int)),
    )


def _numbers(flag: str, texts: list[str], kind: type) -> list[float]:
    try:
        return list(dict.fromkeys(kind(text) for text in texts))
    except ValueError as error:
        raise ValueError(f"--{flag} is {','.join(texts)}; it takes numbers: {error}.") from error


def run():
    cli.run(main)
