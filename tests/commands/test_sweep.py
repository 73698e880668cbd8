"""A sweep starts the programs of each run once, goes on where it was stopped, and compares."""

import json
import os
import subprocess
import sys
import time

import pytest

from agemem_jax.commands.sweep import Variant

# Takes the place of the programs of the runs: notes how it was started, and what comes out of it.
STUB = """
import json, pathlib, sys, time
where = next(a for a in sys.argv if a.startswith("--workdir=")).partition("=")[2]
folder = pathlib.Path(where)
if "{program}" == "train":
    with (folder.parents[1] / "started.jsonl").open("a") as file:
        file.write(json.dumps(sys.argv[1:]) + "\\\\n")
    if any("seed=13" in a for a in sys.argv):
        sys.exit("Error: thirteen.")
    if any("slow" in a for a in sys.argv):
        (folder / "began").touch()
        time.sleep(60)
    (folder / "metrics.jsonl").write_text(
        json.dumps(dict(step=1, reward=1.0, sampled_tokens=10)) + "\\\\n")
else:
    row = dict(title="AgeMem", tc=dict(), j=dict(mean=0.5, low=0, high=1))
    (folder / "evaluation.json").write_text(json.dumps(dict(results=[row])))
"""


def start(tmp_path, *arguments):
    code = (
        "from agemem_jax.commands import running, sweep\n"
        f"running._START = '''{STUB}'''\n"
        "if __name__ == '__main__':\n    sweep.run()\n"
    )
    (tmp_path / "program.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, "program.py", f"--workdir={tmp_path / 'out'}", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip


def run(tmp_path, *arguments):
    program = start(tmp_path, *arguments)
    out, err = program.communicate(timeout=120)
    return program.returncode, out, err


def started(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "started.jsonl").open()]


def test_every_variant_is_trained_with_every_seed_once(tmp_path):
    arguments = (
        "--config=quickstart", "--config.temperature=0.9", "--variant=a",
        "--variant=b: grpo.beta=0 backbone='x y'", "--seeds=0,1",
    )  # fmt: skip
    status, out, err = run(tmp_path, *arguments)
    assert status == 0, err
    assert "| a       | AgeMem |" in out and "| b       | AgeMem |" in out and ".png" in out
    first = started(tmp_path)
    assert [call[-2] for call in first] == ["--config.seed=0"] * 2 + ["--config.seed=1"] * 2
    assert all(call[:2] == ["--config=quickstart", "--config.temperature=0.9"] for call in first)
    assert first[1][2:4] == ["--config.grpo.beta=0", "--config.backbone=x y"]
    # The same again starts nothing; one seed more starts what is missing.
    assert run(tmp_path, *arguments)[0] == 0
    assert started(tmp_path) == first
    assert run(tmp_path, *arguments[:-1], "--seeds=0,1,2")[0] == 0
    assert len(started(tmp_path)) == 6


def test_a_program_that_fails_ends_the_sweep_with_its_last_line(tmp_path):
    status, _, err = run(tmp_path, "--config=quickstart", "--variant=a", "--seeds=13,0")
    assert status == 1 and "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: a, seed 13: train failed, see ") and "thirteen." in last


def test_a_sweep_that_is_ended_ends_the_program_that_it_started(tmp_path):
    program = start(tmp_path, "--config=quickstart", "--variant=a: backbone=slow", "--seeds=0")
    while not (tmp_path / "out" / "a" / "0" / "began").exists():
        assert program.poll() is None
        time.sleep(0.1)
    program.terminate()
    began = time.monotonic()
    program.communicate(timeout=60)
    assert program.returncode != 0 and time.monotonic() - began < 30
    assert not (tmp_path / "out" / "a" / "0" / "sweep_run.json").exists()


@pytest.mark.parametrize(
    "text, told",
    [
        ("a b: x=1", "begins with 'a b'"),
        ("../a", "a folder is named after it"),
        ("a: x", "has 'x'; changes are written as OPTION=VALUE"),
    ],
)
def test_a_variant_that_is_written_wrongly_is_refused(text, told):
    with pytest.raises(ValueError, match=told):
        Variant.parse(text)


def test_variants_of_one_name_are_refused(tmp_path):
    status, _, err = run(tmp_path, "--config=quickstart", "--variant=a", "--variant=a")
    assert status == 1 and "one or more, named differently" in err
