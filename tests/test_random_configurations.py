"""A thousand random configurations: each works, or is refused in one sentence.

Seeds 0 to 999 are built up to their first batch of tasks: 520 are refused and 480 work, some of
them only where MiniLM was fetched. Seeds 0 to 49 are typed as command lines as well, on a fresh
folder and on that of a finished run; AGEMEM_CONFIGURATIONS=all takes all fifty, a quarter of an
hour, and everyday tests take four.
"""

import collections
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from agemem_jax.commands import cli
from agemem_jax.tasks.hotpotqa import builder
from agemem_jax.training.configuration import run_config
from agemem_jax.training.trainer import Trainer
from tests import random_configurations

ROOT = pathlib.Path(__file__).parent.parent
ALL = os.environ.get("AGEMEM_CONFIGURATIONS") == "all"
BUILT = range(1000)
TYPED = range(50) if ALL else (0, 3, 7, 12)
PATIENCE = 60.0  # seconds; an hour would be a hang


@pytest.fixture(autouse=True)
def without_network(monkeypatch):
    """Nothing is downloaded, and nobody is waited for."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(builder, "URL", "http://127.0.0.1:9/")


def outcome(values, workdir) -> str:
    """Builds a run up to its first batch of tasks; what it was refused for, or ""."""
    try:
        trainer = Trainer(run_config.from_dict(values), workdir)
        assert len(next(trainer.iterator)) == trainer.config.curriculum.tasks_per_iteration
        return ""
    except Exception as error:
        told = cli._sentence(error)
        if told is None:
            raise
        return told


def test_random_configurations_build_or_are_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, kinds = random_configurations.base(), collections.Counter()
    for seed in BUILT:
        changes = random_configurations.draw(seed)
        begun = time.monotonic()
        try:
            told = outcome(random_configurations.apply(base, changes), tmp_path / str(seed))
        except Exception as error:
            raise AssertionError(f"configuration {seed}, {changes}") from error
        assert time.monotonic() - begun < PATIENCE, (seed, changes)
        assert "\n" not in told and len(told) < 600, (seed, changes, told)
        kinds["refused" if told else "built"] += 1
        shutil.rmtree(tmp_path / str(seed), ignore_errors=True)
    assert abs(kinds["refused"] - 520) < 20 and kinds.total() == len(BUILT), kinds


CONFIG = """
from tests import random_configurations

def get_config():
    return random_configurations.base()
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(CONFIG)
    return path


def train(config_file, workdir, *flags):
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "train.py"), f"--config={config_file}",
         f"--workdir={workdir}", *flags],
        capture_output=True, text=True, cwd=workdir.parent, timeout=600,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1",
             "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(config_file, tmp_path_factory):
    """The work directory of a run that is done."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    done = train(config_file, workdir)
    assert done.returncode == 0, done.stderr
    return workdir


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def is_one_sentence(done) -> bool:
    last = done.stderr.strip().splitlines()[-1]
    return done.returncode == 1 and last.startswith("Error: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("seed", TYPED)
def test_a_random_command_line_trains_or_is_refused_in_one_sentence(
    config_file, finished, tmp_path, seed
):
    changes = random_configurations.draw(seed)
    if changes.get("tasks.source") == "hotpotqa":
        changes["tasks.options.manual_dir"] = "nowhere"  # nothing is downloaded
    flags = random_configurations.as_flags(changes)
    fresh = train(config_file, tmp_path / "fresh", *flags)
    assert fresh.returncode == 0 or is_one_sentence(fresh), (changes, fresh.stderr)

    copy = shutil.copytree(finished, tmp_path / "finished")
    before = contents(copy)
    second = train(config_file, copy, *flags)
    assert second.returncode == 0 or is_one_sentence(second), (changes, second.stderr)
    after = contents(copy)
    if second.returncode:
        assert after == before, changes
    else:  # a run that goes on keeps what there was
        assert after[pathlib.Path("config.json")] == before[pathlib.Path("config.json")]
        old = before[pathlib.Path("metrics.jsonl")]
        assert after[pathlib.Path("metrics.jsonl")].startswith(old), changes
