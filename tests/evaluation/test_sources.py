"""An evaluation on several sources at once, stopped in the middle and taken up again."""

import json
import pathlib

import pytest

from agemem_jax.commands import evaluate
from agemem_jax.rollout.driver import run_episodes
from tests.test_end_to_end import CONFIG, run_main

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="the benchmarks' data is not at ../shared/data")
def test_slices_of_several_benchmarks_go_on_after_a_crash_with_the_episode_that_is_missing(
    tmp_path, monkeypatch
):
    for package in ("minigrid", "nltk", "regex"):
        pytest.importorskip(package, reason=f"the package {package} is not installed")
    (tmp_path / "small.py").write_text(CONFIG)
    options = "experiences=0, distractors=0"
    arguments = (
        f"--workdir={tmp_path / 'run'}", "--methods=random,expert", "--tasks=3", "--show=1",
        f"--task_source=babyai(data_dir='{DATA / 'agentboard'}', {options})",
        f"--task_source=locomo(data_dir='{DATA / 'locomo'}')",
    )  # fmt: skip
    configured = f"--config={tmp_path / 'small.py'}"
    ended = []

    def play(rollouts, rules, store, backend, environments, check, on_end):
        def note(index, trajectory):
            on_end(index, trajectory)
            ended.append(trajectory.task.task_id)
            if len(ended) == 5:  # in the second method
                raise MemoryError("the machine is gone")

        return run_episodes(rollouts, rules, store, backend, environments, check, note)

    monkeypatch.setattr("agemem_jax.rollout.player.run_episodes", play)
    with pytest.raises(MemoryError):
        run_main(evaluate.main, configured, *arguments)
    run_main(evaluate.main, configured, *arguments)
    assert len(ended) == 2 * 2 * 3, "no episode is played twice"

    results = json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"]
    by_place = {(row["settings"]["tasks"]["name"], row["method"]): row for row in results}
    assert set(by_place) == {(s, m) for s in ("babyai", "locomo") for m in ("random", "expert")}
    assert by_place["babyai", "expert"]["success"]["mean"] == 1.0
    assert by_place["babyai", "random"]["grounding"]["mean"] > 0.9
    assert by_place["locomo", "expert"]["j"]["mean"] == 1.0
    assert by_place["locomo", "random"]["f1"]["mean"] < 0.5
    assert len(by_place["locomo", "expert"]["categories"]) > 1, "a slice is spread"
    lines = list((tmp_path / "run" / "evaluation").glob("*.episodes.jsonl"))
    assert len(lines) == 4 and all(len(p.read_text().splitlines()) == 3 for p in lines)


def test_other_tasks_are_played_where_the_runs_own_are_not_at_hand(tmp_path):
    (tmp_path / "small.py").write_text(CONFIG)
    run_main(
        evaluate.main, f"--config={tmp_path / 'small.py'}", f"--workdir={tmp_path / 'run'}",
        "--config.tasks.source=hotpotqa", f"--config.tasks.options.manual_dir={tmp_path}",
        "--methods=random", "--tasks=2", "--task_source=multihop", "--index=found.json",
    )  # fmt: skip
    (found,) = json.loads((tmp_path / "run" / "found.json").read_text())["records"]
    assert (found["task_source"], found["method"]) == ("multihop", "random")
    record = json.loads((tmp_path / "run" / found["record"]).read_text())
    values = [each["j"] for each in record["rows"]]
    assert len(values) == 2
    assert sum(values) / 2 == record["measures"]["estimates"]["j"]["mean"]
    assert (tmp_path / "run" / found["episodes"]).read_text().count("\n") == 2
    (row,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"]
    assert row["settings"]["tasks"]["name"] == "multihop" and row["tasks"] == 2
