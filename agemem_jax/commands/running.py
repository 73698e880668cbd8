"""Completes many runs: trains and evaluates each by the programs of the package, and goes on.

What `agemem-sweep` and `agemem-reproduce` share: their flags --seeds and --jobs, and how the
programs of a run are started, ended, and not started again when they have done their work.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from absl import flags, logging

import agemem_jax

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each variant.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs at a time, which share the machine.", 1)
_DONE = "sweep_run.json"  # the programs that are through, by name, and what they were given
_LOOK = 2.0  # seconds between two looks whether the parent is there


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be done in the folder of one run.

    Attributes:
      name: for messages.
      workdir: of the run; no two jobs share one.
      steps: arguments of the programs, in order, by name: that of the program, behind which
        something may stand that tells it from others, as in "evaluate-more".
    """

    name: str
    workdir: pathlib.Path
    steps: Mapping[str, Sequence[str]]


def seeds() -> list[int]:
    """What --seeds asks for, without repetitions.

    Raises:
      ValueError: one is no whole number, or there is none.
    """
    found = [_seed(text) for text in _SEEDS.value]
    if not found:
        raise ValueError("--seeds is empty; it takes one or more whole numbers, such as 0,1,2.")
    return list(dict.fromkeys(found))


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"--seeds has {text!r}; seeds are whole numbers.") from error


def own_configuration(argv: Sequence[str]) -> list[str]:
    """The flags of a command line that make the configuration."""
    own = []
    for index, argument in enumerate(argv):
        if re.match(r"--?(no)?config\b", argument):
            own.append(argument)
            value = "" if "=" in argument else "".join(argv[index + 1 : index + 2])
            own += [value] if value and not value.startswith("-") else []
    return own


def complete_all(jobs: Sequence[Job]) -> None:
    """Does what is left of all jobs, --jobs at a time; ends their programs where it is ended.

    Raises:
      ValueError: a program ended with an error; the sentence has its last line. Jobs that have not
        begun are left out then.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    began = time.monotonic()
    programs: set[subprocess.Popen] = set()
    with concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool:
        waiting = [pool.submit(_complete, job, programs) for job in jobs]
        try:
            for done, future in enumerate(concurrent.futures.as_completed(waiting), start=1):
                future.result()
                left = (time.monotonic() - began) / done * (len(jobs) - done) / 60
                logging.info("%d of %d runs are done, %.0f min left", done, len(jobs), left)
        except BaseException:
            pool.shutdown(cancel_futures=True, wait=False)
            for program in tuple(programs):
                program.terminate()  # they save, and go on with the next start
            raise


def _complete(job: Job, programs: set[subprocess.Popen]) -> None:
    """Starts the programs of a job that have not done the same before, each behind the last.

    A program that is given something new is started, and so are all behind it.
    """
    job.workdir.mkdir(parents=True, exist_ok=True)
    finished = job.workdir / _DONE
    with _alone(job) as lock:
        known, done = _read(finished), {}
        for name, arguments in job.steps.items():
            if known.get(name) != list(arguments):
                logging.info("%s: %s", job.name, name)
                _run(job, name, arguments, programs, lock)
                known = done | {name: list(arguments)}
                _replace(finished, json.dumps(known))
            done[name] = list(arguments)


def _read(path: pathlib.Path) -> dict[str, list[str]]:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return dict(json.loads(path.read_text()))
    return {}


def _replace(path: pathlib.Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text)
    unfinished.replace(path)


@contextlib.contextmanager
def _alone(job: Job) -> Iterator[int]:
    """Waits until no other process works in the folder of a job; gives a lock to be inherited.

    The lock is held as long as this process or a program that it started lives: where this one is
    killed, its program may still be saving when the next one begins.
    """
    with (job.workdir / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("%s: another process works in %s; waiting", job.name, job.workdir)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _run(
    job: Job, name: str, arguments: Sequence[str], programs: set[subprocess.Popen], lock: int
) -> None:
    """One program to its end.

    Raises:
      ValueError: it ended with an error.
    """
    ours = str(pathlib.Path(agemem_jax.__file__).parents[1])  # this clone, installed or not
    path = os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))
    start = _START.format(program=name.partition("-")[0], parent=os.getpid())
    log = job.workdir / f"{name}.log"
    with log.open("a") as file:
        program = subprocess.Popen(
            [sys.executable, "-c", start, *arguments], stdout=file, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}, pass_fds=(lock,),
        )  # fmt: skip
        programs.add(program)
        status = program.wait()
        programs.discard(program)
    if status:
        last = (log.read_text().strip().splitlines() or ["It said nothing."])[-1]
        raise ValueError(f"{job.name}: {name} failed, see {log}. {last}")


_START = """
from agemem_jax.commands import running
running.end_with({parent})
from agemem_jax.commands.{program} import run
run()
"""


def end_with(parent: int) -> None:
    """From now on this process gets a SIGTERM when the process that started it is gone.

    What was killed cannot end its programs itself; they would go on, beside those of the next
    start.
    """

    def watch():
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()
