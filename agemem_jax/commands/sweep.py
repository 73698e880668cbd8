"""Trains and evaluates variants of a configuration, with several seeds each, and compares them.

    agemem-sweep --workdir=runs/rates --config=quickstart --seeds=0,1,2 \\
        --variant="low: optimizer.learning_rate=1e-4" --variant="high: optimizer.learning_rate=4e-4"

A variant is a name and the options that it changes, behind those that the command line changes for
all (--config.OPTION=VALUE). Each run has a folder, WORKDIR/VARIANT/SEED, with the files that
agemem-train and agemem-evaluate write and a log of both. The same command goes on where it was
stopped; more seeds or variants come beside what is there.

Prints means over the seeds with 95 % intervals, and differences to the first variant seed by
seed; writes both to sweep.json, sweep.csv and sweep.md, and a picture of the training metric that
--curve names to sweep.png.
"""

import dataclasses
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence

import rich
from absl import app, flags, logging

from agemem_jax.commands import cli, running
from agemem_jax.commands.config_flag import CONFIG
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.evaluation import sweeps

_VARIANTS = flags.DEFINE_multi_string(
    "variant", [], "'NAME: OPTION=VALUE ...', quoted as in a shell; a name alone changes nothing. "
    "To be repeated.",
)  # fmt: skip
_EVALUATE = flags.DEFINE_string(
    "evaluate", "--methods=agemem_norl,agemem", "Flags of agemem-evaluate."
)
_METRICS = flags.DEFINE_list(
    "metrics", [], "Columns of the table; default: scores, rewards, calls."
)
_CURVE = flags.DEFINE_string("curve", "reward", "The training metric of the picture.")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A name and the options that it changes, as flags of agemem-train."""

    name: str
    changes: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """Reads 'NAME: OPTION=VALUE ...'.

        Raises:
          ValueError: it is not written so.
        """
        name, _, rest = text.partition(":")
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise ValueError(
                f"--variant={text!r} begins with {name!r}; a name has letters, digits, '_', '.', "
                "'+' and '-', since a folder is named after it."
            )
        changes = shlex.split(rest)
        wrong = next((each for each in changes if not re.match(r"[\w.]+=", each)), None)
        if wrong is not None:
            raise ValueError(
                f"--variant={text!r} has {wrong!r}; changes are written as OPTION=VALUE, such as "
                "optimizer.learning_rate=1e-4."
            )
        return cls(name, tuple(f"--config.{each}" for each in changes))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    if CONFIG.value is None:
        raise app.UsageError("--config is missing; it names what the variants change.")
    variants = [Variant.parse(text) for text in _VARIANTS.value]
    names = [variant.name for variant in variants]
    if not variants or len(set(names)) < len(names):
        raise ValueError(f"--variant is given as {names}; it takes one or more, named differently.")
    workdir = pathlib.Path(WORKDIR.value)
    runs = {
        sweeps.Run(variant.name, seed, workdir / variant.name / str(seed)): variant.changes
        for seed in running.seeds()  # so that all variants are compared early
        for variant in variants
    }
    own = running.own_configuration(sys.argv[1:])
    running.complete_all([_job(run, [*own, *changes]) for run, changes in runs.items()])
    order = sorted(runs, key=lambda run: (names.index(run.variant), run.seed))
    summary = sweeps.Summary(order)
    sweeps.write(workdir, summary)
    sweeps.write_curves(workdir / "sweep.png", summary, _CURVE.value)
    for table in sweeps.render(summary, _METRICS.value):
        rich.print(table)
    rich.print(f"Wrote sweep.json, .csv, .md and .png to {workdir}")


def _job(run: sweeps.Run, own: Sequence[str]) -> running.Job:
    where = f"--workdir={run.workdir}"
    steps = {
        "train": [*own, f"--config.seed={run.seed}", where],
        "evaluate": [where, *shlex.split(_EVALUATE.value)],
    }
    return running.Job(f"{run.variant}, seed {run.seed}", run.workdir, steps)


def run():
    cli.run(main)
