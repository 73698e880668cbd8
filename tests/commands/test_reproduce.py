"""The command for the paper's tables: killed, given again, and the same tables as in peace."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments.checks import reproduce_kills
from tests.evaluation.paper.builders import METHODS, stored
from tests.test_end_to_end import CONFIG

ROOT = pathlib.Path(__file__).parents[2]
# Takes the place of the programs of the runs: works in small steps, each of which stays, and
# says so; refuses to work beside another of its kind.
STUB = """
from agemem_jax.commands import running
running.end_with({parent})
import json, os, pathlib, shutil, sys, time
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("--workdir=")).partition("=")[2])
with (folder / "pids").open("a+") as file:
    file.seek(0)
    for pid in file.read().split():
        state = pathlib.Path("/proc", pid, "stat")  # Z: dead, and nobody has asked for its status
        dead = not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"
        assert dead, "two programs in one run"
    file.write(str(os.getpid()) + chr(10))
made = pathlib.Path("MADE") / "runs" / folder.parent.name / folder.name
for path in sorted(made.rglob("*")):
    to = folder / path.relative_to(made)
    mine = ("{program}" == "train") == (path.name == "metrics.jsonl")
    if path.is_file() and mine and not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        time.sleep(PACE)
        shutil.copy2(path, str(to) + ".tmp")
        os.replace(str(to) + ".tmp", to)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A command whose runs give what is stored already, slowly where `PACE` is 0.3."""
    folder = tmp_path_factory.mktemp("program")
    stored(folder / "made", ("table2", "figure2", "costs"), seeds=(0, 1), benchmarks=("multihop",))
    stub = STUB.replace("MADE", str(folder / "made"))
    path = folder / "program.py"
    path.write_text(
        "import os\n"
        "from agemem_jax.commands import reproduce, running\n"
        f"running._START = {stub!r}.replace('PACE', os.environ['PACE'])\n"
        "if __name__ == '__main__':\n    reproduce.run()\n"
    )
    return path


def start(program, workdir, pace="0.01", *arguments):
    given = (
        "--config=quickstart", "--seeds=0,1", f"--methods={','.join(METHODS)}",
        "--render=table2,figure2,costs", f"--workdir={workdir}", *arguments,
    )  # fmt: skip
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "PACE": pace, "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(program), *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment, start_new_session=True, cwd=program.parent,
    )  # fmt: skip


def wait_for(command, condition):
    """Until a condition holds while the command goes on."""
    until = time.monotonic() + 120
    while not condition():
        assert command.poll() is None and time.monotonic() < until, command.communicate()
        time.sleep(0.05)


def test_a_command_that_is_killed_again_and_again_ends_with_the_tables_of_one_in_peace(
    program, tmp_path
):
    peaceful, disturbed = tmp_path / "peaceful", tmp_path / "disturbed"
    out, err = start(program, peaceful).communicate(timeout=200)
    assert "Wrote table2, figure2, costs" in out, err
    first = disturbed / "runs" / "agemem" / "0"
    records = first / "evaluation"

    command = start(program, disturbed, "0.3")
    wait_for(command, lambda: records.is_dir() and any(records.iterdir()))
    command.kill()  # alone: the program of the run finds out by itself
    command.communicate()
    assert not (disturbed / "paper").exists()

    command = start(program, disturbed, "0.3")
    second = disturbed / "runs" / "agemem" / "1" / "pids"
    wait_for(command, second.exists)
    os.killpg(command.pid, signal.SIGKILL)  # with the program of the run
    command.communicate()

    out, err = start(program, disturbed).communicate(timeout=200)
    assert "Wrote table2, figure2, costs" in out, err
    assert reproduce_kills._compare(peaceful, disturbed) == []
    assert len((first / "pids").read_text().split()) == 3, "train, evaluate, evaluate"


def test_a_real_backbone_goes_from_the_command_to_the_trajectories(tmp_path):
    (tmp_path / "small.py").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "reproduce.py"), "--methods=no_memory",
         f"--config={tmp_path / 'small.py'}", f"--workdir={tmp_path / 'out'}", "--seeds=0",
         "--render=table2,costs", "--tasks=2", "--config.warmup.steps=0"],
        env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "No-Memory" in done.stdout
    paper = tmp_path / "out" / "paper"
    cells = json.loads((paper / "costs.json").read_text())["cells"]
    assert [cell["column"] for cell in cells] == [
        "average", "prompt tokens", "sampled tokens", "model calls",
    ]  # fmt: skip
    assert cells[0]["low"] is not None, "the tasks of the record are told apart"
    (source,) = cells[1]["sources"]
    lines = (paper / source["episodes"]).read_text().splitlines()
    costs = [json.loads(line)["cost"] for line in lines]
    assert len(costs) == 2 == cells[1]["tasks"]
    for cell, name in zip(cells[1:], ("prompt_tokens", "sampled_tokens", "calls"), strict=True):
        assert cell["mean"] == sum(cost[name] for cost in costs) / 2 > 0
    assert all(cost["seconds"] > 0 for cost in costs)
    assert (paper / source["shown"]).read_text().count("Task `") == 2
