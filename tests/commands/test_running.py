"""How the programs of runs are started, and not started again."""

import json

import pytest

from agemem_jax.commands import running
from agemem_jax.commands.running import Job

STUB = """
import pathlib, sys
pathlib.Path("{program}.runs").open("a").write(" ".join(sys.argv[1:]) + chr(10))
if "wrong" in sys.argv:
    sys.exit("Error: it is wrong.")
"""


@pytest.fixture(autouse=True)
def stub(monkeypatch, tmp_path):
    monkeypatch.setattr(running, "_START", STUB)
    monkeypatch.chdir(tmp_path)


def complete(tmp_path, **steps):
    job = Job("a run", tmp_path / "run", {n.replace("_", "-"): s for n, s in steps.items()})
    running._complete(job, set())


def calls(tmp_path, program):
    path = tmp_path / f"{program}.runs"
    return path.read_text().splitlines() if path.exists() else []


def test_a_program_is_started_again_for_new_arguments_and_all_behind_it_with_it(tmp_path):
    complete(tmp_path, train=["a"], evaluate=["b"], evaluate_more=["c"])
    complete(tmp_path, train=["a"], evaluate=["b"], evaluate_more=["c"])
    assert calls(tmp_path, "train") == ["a"] and calls(tmp_path, "evaluate") == ["b", "c"]
    complete(tmp_path, train=["a"], evaluate=["b"], evaluate_more=["d"])
    assert calls(tmp_path, "train") == ["a"] and calls(tmp_path, "evaluate") == ["b", "c", "d"]
    complete(tmp_path, train=["e"], evaluate=["b"])
    assert calls(tmp_path, "train") == ["a", "e"]
    assert calls(tmp_path, "evaluate") == ["b", "c", "d", "b"]


def test_what_is_through_is_known_though_the_next_program_fails(tmp_path):
    with pytest.raises(ValueError, match="a run: evaluate failed, see .* it is wrong"):
        complete(tmp_path, train=["a"], evaluate=["wrong"])
    assert json.loads((tmp_path / "run" / "sweep_run.json").read_text()) == {"train": ["a"]}
    complete(tmp_path, train=["a"], evaluate=["b"])
    assert calls(tmp_path, "train") == ["a"]


def test_a_run_that_an_earlier_version_completed_is_not_run_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sweep_run.json").write_text('{"train": ["a"], "evaluate": ["b"]}')
    complete(tmp_path, train=["a"], evaluate=["b"])
    assert not calls(tmp_path, "train") + calls(tmp_path, "evaluate")


def test_the_flags_of_a_configuration_are_found_with_their_values():
    given = ["--config", "quickstart", "--seeds=0", "--config.seed=3", "--noconfig.model.remat"]
    assert running.own_configuration(given) == [
        "--config", "quickstart", "--config.seed=3", "--noconfig.model.remat",
    ]  # fmt: skip
