"""Kills a training job at random moments, and compares its end with an undisturbed one's.

    python experiments/checks/survive_kills.py --workdir=runs/kills

Trains the quickstart's policy through a short curriculum, in two processes that
launch/local.sh starts again, once in peace and once with a SIGKILL to one of them every now
and then. Parameters, optimiser state, keys and metrics must come out the same, bit for bit.
Writes kills.json and kills.md into --workdir; ends with status 1 where anything differs.
Another run than the quickstart's is given as arguments of experiments/train.py behind `--`.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import subprocess
import sys
import time
from collections.abc import Collection, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # this clone, installed or not

import jax
import numpy as np
import psutil
from absl import flags, logging

from agemem_jax.commands import cli
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.configuration.run_record import read_config
from agemem_jax.training.monitoring.metrics import read_metrics
from agemem_jax.training.trainer import Trainer
from experiments.checks.kill_report import spend_kills, write_report

_ROOT = pathlib.Path(__file__).parents[2]
_KILLS = flags.DEFINE_integer("kills", 20, "How many.", 1)
_PROCESSES = flags.DEFINE_integer("processes", 2, "Of the job.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
_HEARTBEAT = flags.DEFINE_integer("heartbeat_timeout", 10, "See experiments/train.py.", 1)
_LONGEST = flags.DEFINE_float("longest", 100.0, "Seconds that a process lives, at most.", 0.0)
# The quickstart with all its phases, each a few iterations long.
_RUN = (
    "--config=experiments/configs/quickstart.py", "--config.curriculum.schedule=phased",
    "--config.curriculum.iterations=(3,3,3)", "--config.curriculum.checkpoint_every=1",
    "--config.warmup.steps=8", "--config.warmup.episodes=64",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Attributes:
      number: from 1 on.
      run: its folder.
      process: which one was hit.
      lived: seconds since the job had been started.
      step: of the last line of metrics; 0 where there was none.
      phase: of that line.
      saved: step of the newest checkpoint; None where there was none.
    """

    number: int
    run: str
    process: int
    lived: float
    step: int
    phase: str
    saved: int | None


_COLUMNS = {
    "kill": lambda kill: kill.number,
    "run": lambda kill: kill.run,
    "process": lambda kill: kill.process,
    "alive for": lambda kill: f"{kill.lived} s",
    "phase": lambda kill: kill.phase,
    "last step": lambda kill: kill.step,
    "newest checkpoint": lambda kill: "none" if kill.saved is None else kill.saved,
}


def main(argv):
    run = argv[1:] or _RUN
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    workdir = pathlib.Path(WORKDIR.value)
    logging.info("A run in peace")
    _wait(_start(workdir / "peaceful", run))
    moments, kills = random.Random(_SEED.value), []

    def disturb(folder: pathlib.Path) -> None:
        _disturb(_start(folder, run), folder, moments, kills)

    differences = spend_kills(workdir, _KILLS.value, kills, disturb, _compare)
    same = "parameters, optimiser state, keys and metrics are those of the run in peace"
    write_report(workdir, kills, _COLUMNS, differences, same)


def _start(workdir: pathlib.Path, run: Sequence[str]) -> subprocess.Popen:
    workdir.mkdir(parents=True, exist_ok=True)
    command = [
        "bash", str(_ROOT / "launch" / "local.sh"), str(_PROCESSES.value), "--", *run,
        f"--workdir={workdir.resolve()}", f"--heartbeat_timeout={_HEARTBEAT.value}",
    ]  # fmt: skip
    environment = os.environ | {
        "MAX_RESTARTS": str(2 * _KILLS.value),
        "GRACE": "5",
        "AGEMEM_VENV": "none",  # this Python, as it is
        "PATH": os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])),
    }
    with (workdir / "log.txt").open("a") as log:
        return subprocess.Popen(command, stderr=log, stdout=log, cwd=_ROOT, env=environment)


def _wait(job: subprocess.Popen) -> None:
    if job.wait():
        raise ValueError(f"The job ended with status {job.returncode}; see log.txt beside it.")


def _disturb(
    job: subprocess.Popen, workdir: pathlib.Path, moments: random.Random, kills: list[Kill]
) -> None:
    """A run to its end; kills one process of every generation at a random moment of its life."""
    checkpoints, metrics = workdir / "checkpoints", workdir / "metrics.jsonl"
    seen: set[int] = set()
    while len(kills) < _KILLS.value and (processes := _generation(job, seen)):
        begun = time.time()
        seen |= {process.pid for process in processes}
        time.sleep(moments.uniform(0.0, _LONGEST.value))
        index = moments.randrange(_PROCESSES.value)
        lines = read_metrics(metrics) if metrics.exists() else []
        newest = Checkpoints(checkpoints, read_only=True).latest()
        try:
            alive = processes[index].status() != psutil.STATUS_ZOMBIE
            processes[index].kill()
        except psutil.NoSuchProcess:
            alive = False
        if not alive:  # it has come to its end
            continue
        kills.append(
            Kill(
                len(kills) + 1, workdir.name, index, round(time.time() - begun, 1),
                lines[-1]["step"] if lines else 0, lines[-1]["phase"] if lines else "start",
                newest.step if newest else None,
            )
        )  # fmt: skip
        logging.info("%s", kills[-1])
    _wait(job)


def _generation(job: subprocess.Popen, seen: Collection[int]) -> list[psutil.Process]:
    """The processes of the launcher that were not seen before; none when it has ended."""
    while job.poll() is None:
        found = []
        for child in psutil.Process(job.pid).children():
            with contextlib.suppress(psutil.Error):  # it is ending
                if child.pid not in seen and "--process_id" in " ".join(child.cmdline()):
                    found.append(child)
        if len(found) == _PROCESSES.value:
            return sorted(found, key=lambda child: child.cmdline()[-1])
        time.sleep(0.1)
    return []


def _compare(peaceful: pathlib.Path, disturbed: pathlib.Path) -> list[str]:
    """What of the two runs' ends is not the same, bit for bit."""
    (one, position), (other, end) = _end(peaceful), _end(disturbed)
    different = [] if position == end else ["position"]
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        if np.asarray(a).tobytes() != np.asarray(b).tobytes():
            different.append(jax.tree_util.keystr(path))
    if _metrics(peaceful) != _metrics(disturbed):
        different.append("metrics.jsonl")
    return different


def _end(workdir: pathlib.Path):
    config = read_config(workdir)
    return Trainer(config, workdir).restore()


def _metrics(workdir: pathlib.Path) -> list[dict]:
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "timing"} for line in lines]


if __name__ == "__main__":
    cli.run(main)
