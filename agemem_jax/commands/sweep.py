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

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import rich
from absl import app, flags, logging

import agemem_jax
from agemem_jax.commands import cli
from agemem_jax.commands.config_flag import CONFIG
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.evaluation import sweeps

_VARIANTS = flags.DEFINE_multi_string(
    "variant", [], "'NAME: OPTION=VALUE ...', quoted as in a shell; a name alone changes nothing. "
    "To be repeated.",
)  # fmt: skip
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each variant.")
_EVALUATE = flags.DEFINE_string(
    "evaluate", "--methods=agemem_norl,agemem", "Flags of agemem-evaluate."
)
_METRICS = flags.DEFINE_list(
    "metrics", [], "Columns of the table; default: scores, rewards, calls."
)
_CURVE = flags.DEFINE_string("curve", "reward", "The training metric of the picture.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time, which share the machine.", 1)


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
    seeds = [_seed(text) for text in _SEEDS.value]
    workdir = pathlib.Path(WORKDIR.value)
    runs = {
        sweeps.Run(variant.name, seed, workdir / variant.name / str(seed)): variant.changes
        for seed in seeds  # so that all variants are compared early
        for variant in variants
    }
    _complete_all(runs, _own_configuration(sys.argv[1:]))
    order = sorted(runs, key=lambda run: (names.index(run.variant), run.seed))
    summary = sweeps.Summary(order)
    sweeps.write(workdir, summary)
    sweeps.write_curves(workdir / "sweep.png", summary, _CURVE.value)
    for table in sweeps.render(summary, _METRICS.value):
        rich.print(table)
    rich.print(f"Wrote sweep.json, .csv, .md and .png to {workdir}")


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"--seeds has {text!r}; seeds are whole numbers.") from error


def _own_configuration(argv: Sequence[str]) -> list[str]:
    """The flags of a command line that make the configuration."""
    own = []
    for index, argument in enumerate(argv):
        if re.match(r"--?(no)?config\b", argument):
            own.append(argument)
            value = "" if "=" in argument else "".join(argv[index + 1 : index + 2])
            own += [value] if value and not value.startswith("-") else []
    return own


def _complete_all(runs: Mapping[sweeps.Run, Sequence[str]], own: Sequence[str]) -> None:
    """Completes all runs, given what each changes; ends their programs where it is ended.

    Raises:
      ValueError: see `_complete`; runs that have not begun are left out then.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    began = time.monotonic()
    programs: set[subprocess.Popen] = set()
    with concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool:
        waiting = [
            pool.submit(_complete, run, [*own, *changes], programs) for run, changes in runs.items()
        ]
        try:
            for done, future in enumerate(concurrent.futures.as_completed(waiting), start=1):
                future.result()
                left = (time.monotonic() - began) / done * (len(runs) - done) / 60
                logging.info("%d of %d runs are done, %.0f min left", done, len(runs), left)
        except BaseException:
            pool.shutdown(cancel_futures=True, wait=False)
            for program in tuple(programs):
                program.terminate()  # they save, and go on with the next start
            raise


def _complete(run: sweeps.Run, own: Sequence[str], programs: set[subprocess.Popen]) -> None:
    """Trains and evaluates what is left of a run; nothing if the same was done before.

    Raises:
      ValueError: one of the programs ended with an error; the sentence has its last line.
    """
    where = f"--workdir={run.workdir}"
    commands = {
        "train": [*own, f"--config.seed={run.seed}", where],
        "evaluate": [where, *shlex.split(_EVALUATE.value)],
    }
    finished = run.workdir / "sweep_run.json"
    if finished.is_file() and json.loads(finished.read_text()) == commands:
        return
    run.workdir.mkdir(parents=True, exist_ok=True)
    ours = str(pathlib.Path(agemem_jax.__file__).parents[1])  # this clone, installed or not
    path = os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))
    for name, arguments in commands.items():
        logging.info("%s, seed %d: %s", run.variant, run.seed, name)
        log = run.workdir / f"{name}.log"
        with log.open("a") as file:
            program = subprocess.Popen(
                [sys.executable, "-c", _START.format(program=name), *arguments], stdout=file,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
            programs.add(program)
            status = program.wait()
            programs.discard(program)
        if status:
            last = (log.read_text().strip().splitlines() or ["It said nothing."])[-1]
            raise ValueError(f"{run.variant}, seed {run.seed}: {name} failed, see {log}. {last}")
    finished.write_text(json.dumps(commands))


_START = "from agemem_jax.commands.{program} import run; run()"


def run():
    cli.run(main)
