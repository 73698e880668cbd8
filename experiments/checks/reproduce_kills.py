"""Kills agemem-reproduce at random moments, and compares its tables with an undisturbed run's.

    python experiments/checks/reproduce_kills.py --workdir=runs/reproduce_kills --kills=10

Half of the kills hit the command alone, which leaves the program that it has started behind; the
others hit that, too. The same command is given again until it comes to its end. Everything in
WORKDIR/paper must come out the same, byte for byte, but for what was measured by the clock.
Writes kills.json and kills.md into --workdir; ends with status 1 where anything differs. Another
command than a small quickstart is given as arguments of agemem-reproduce behind `--`.
"""

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # this clone, installed or not

from absl import flags, logging

from agemem_jax.commands import cli
from agemem_jax.commands.workdir import WORKDIR
from experiments.checks.kill_report import spend_kills, write_report

_ROOT = pathlib.Path(__file__).parents[2]
_KILLS = flags.DEFINE_integer("kills", 10, "How many.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
_LONGEST = flags.DEFINE_float(
    "longest", None, "Seconds until a kill, at most; default: a third of the undisturbed run.", 0.0
)
_PROGRAM = flags.DEFINE_string(
    "program", str(_ROOT / "experiments" / "reproduce.py"), "File that is started."
)
_BY_THE_CLOCK = ("timing",)  # names of tables
# A quickstart with two iterations, five tasks and two seeds.
_RUN = (
    "--config=quickstart", "--seeds=0,1", "--tasks=5", "--config.curriculum.iterations=(2,)",
    "--config.curriculum.tasks_per_iteration=2", "--config.curriculum.checkpoint_every=1",
    "--config.grpo.group_size=2", "--config.engine.slots=4", "--config.packing.rows=2",
    "--config.evaluation.bootstrap_samples=200",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Attributes:
      number: from 1 on.
      run: its folder.
      hit: "command", or "all" with the program that it had started.
      lived: seconds since the command had been given.
      during: what was last written below the folder.
    """

    number: int
    run: str
    hit: str
    lived: float
    during: str


_COLUMNS = {
    "kill": lambda kill: kill.number,
    "run": lambda kill: kill.run,
    "hit": lambda kill: kill.hit,
    "after": lambda kill: f"{kill.lived} s",
    "last written before": lambda kill: f"`{kill.during}`",
}


def main(argv):
    run = argv[1:] or _RUN
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    workdir = pathlib.Path(WORKDIR.value).resolve()
    logging.info("A run in peace")
    began = time.monotonic()
    _wait(_start(workdir / "peaceful", run), workdir / "peaceful")
    longest = _LONGEST.value or (time.monotonic() - began) / 3
    moments, kills = random.Random(_SEED.value), []

    def disturb(folder: pathlib.Path) -> None:
        _disturb(folder, run, moments, kills, longest)

    differences = spend_kills(workdir, _KILLS.value, kills, disturb, _compare)
    same = "all tables and pictures are those of the run in peace"
    write_report(workdir, kills, _COLUMNS, differences, same)


def _start(workdir: pathlib.Path, run: Sequence[str]) -> subprocess.Popen:
    workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, _PROGRAM.value, *run, f"--workdir={workdir}"]
    with (workdir / "log.txt").open("a") as log:
        # In a session of its own, so that all of it can be killed at once.
        return subprocess.Popen(command, stderr=log, stdout=log, start_new_session=True)


def _wait(command: subprocess.Popen, workdir: pathlib.Path) -> None:
    if command.wait():
        raise ValueError(f"It ended with status {command.returncode}; see {workdir / 'log.txt'}.")


def _disturb(
    workdir: pathlib.Path,
    run: Sequence[str],
    moments: random.Random,
    kills: list[Kill],
    longest: float,
) -> None:
    """A command to its end, killed and given again until then."""
    while True:
        command, began = _start(workdir, run), time.monotonic()
        if len(kills) == _KILLS.value:
            return _wait(command, workdir)
        try:
            command.wait(moments.uniform(0.0, longest))
            return _wait(command, workdir)
        except subprocess.TimeoutExpired:
            hit = moments.choice(("command", "all"))
            during, lived = _last_written(workdir), round(time.monotonic() - began, 1)
            if hit == "all":
                os.killpg(command.pid, signal.SIGKILL)
            else:
                command.kill()
            command.wait()
        kills.append(Kill(len(kills) + 1, workdir.name, hit, lived, during))
        logging.info("%s", kills[-1])


def _last_written(workdir: pathlib.Path) -> str:
    """The newest file that is not a log, as an idea of what was under way."""
    found, newest = "nothing", -1.0
    for path in workdir.rglob("*"):
        try:
            written = path.stat().st_mtime
        except FileNotFoundError:  # it was a temporary one
            continue
        skipped = path.suffix in (".log", ".txt") or path.name == "lock" or path.is_dir()
        if not skipped and written > newest:
            found, newest = str(path.relative_to(workdir)), written
    return found


def _compare(peaceful: pathlib.Path, disturbed: pathlib.Path) -> list[str]:
    """The files of the two runs' tables and pictures that are not the same."""
    one, other = _contents(peaceful / "paper"), _contents(disturbed / "paper")
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.stem not in _BY_THE_CLOCK
    }


if __name__ == "__main__":
    cli.run(main)
