"""What the tests of the launchers share: the stub, its plan, and what it was started with."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def environment(**changes) -> dict[str, str]:
    """This Python for the launchers, and the stub instead of experiments/train.py."""
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    stub = {"PATH": path, "AGEMEM_VENV": "none", "AGEMEM_PROGRAM": "tests/launch/stub.py"}
    return os.environ | stub | {"GRACE": "1"} | changes


def write_plan(workdir: pathlib.Path, *plan: list) -> list[str]:
    """What each process does at each start (see stub.py); returns the program's arguments."""
    (workdir / "plan.json").write_text(json.dumps(plan))
    return [f"--workdir={workdir}", "--heartbeat_timeout=1"]


def starts(workdir: pathlib.Path, process: int) -> list[dict]:
    """What the process was started with, a record for each start."""
    files = sorted(workdir.glob(f"{process}.*"), key=lambda file: int(file.suffix[1:]))
    return [json.loads(file.read_text()) for file in files]


def run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60
    )
