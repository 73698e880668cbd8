"""From the start of `python experiments/train.py` to the first token of the first rollout."""

import pathlib
import re
import subprocess
import sys
import tempfile
import time

from experiments.benchmarks.options import Options
from experiments.benchmarks.timing import Case, Timing

_ROOT = pathlib.Path(__file__).parents[2]
_FIRST = re.compile(r"First token sampled")


def run(options: Options) -> list[Case]:
    """With a warm compilation cache: the first start is not counted."""
    values = [_once() for _ in range(options.repeats + 1)][1:]
    limit = Timing((20.0,))
    return [
        Case(
            "train.py quickstart: to the first rollout token", Timing(tuple(values)),
            {"at most": limit}, wanted={"at most": 1.0},
        )
    ]  # fmt: skip


def _once() -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(_ROOT / "experiments" / "train.py"),
            f"--config={_ROOT / 'experiments' / 'configs' / 'quickstart.py'}",
            f"--workdir={folder}",
        ]  # fmt: skip
        begun = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stderr:
                if _FIRST.search(line):
                    return time.perf_counter() - begun
        finally:
            process.kill()
            process.wait()
    raise RuntimeError("train.py ended before its first token.")
