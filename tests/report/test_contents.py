"""What a report reads of work directories, whatever state they are in."""

import json

import pytest

from agemem_jax.report.contents import by_tasks, read, source_titles
from agemem_jax.rollout.trajectory import Trajectory
from tests.report import builders


def test_a_directory_without_anything_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds no metrics.jsonl, samples or evaluation"):
        read(tmp_path)


def test_an_evaluation_is_read_with_the_rewards_of_its_episodes(tmp_path):
    played = [builders.played(number) for number in range(3)]
    played[1] = Trajectory.failed(played[1].task, "It hung.")
    name = builders.evaluate(tmp_path, played)
    found = read(tmp_path)
    assert list(found.records) == [name] and not found.unreadable
    assert [each.index for each in found.played] == [0, 1, 2]
    assert [each.reward and each.reward["total"] for each in found.played] == [1.1, None, 1.1]
    assert list(found.played[0].reward) == ["total", "task", "memory", "storage"]
    assert found.played[0].components == ["task", "memory"]
    assert found.played[0].trajectory.task.query == builders.TASK.query
    assert found.played[0].trajectory.task.answer == "Oslo"
    assert found.played[0].trajectory.left == played[0].left


def test_an_episode_that_was_played_again_takes_the_place_of_the_one_that_failed(tmp_path):
    good = builders.played(0)
    name = builders.evaluate(tmp_path, [good])
    stored = tmp_path / "evaluation" / f"{name}.episodes.jsonl"
    line = stored.read_text()
    stored.write_text(json.dumps(json.loads(line) | {"fault": "It hung."}) + "\n" + line)
    (only,) = read(tmp_path).played
    assert only.trajectory.fault is None and only.reward["total"] == 1.1


def test_an_evaluation_under_way_is_shown_without_rewards(tmp_path):
    name = builders.evaluate(tmp_path, [builders.played(0)])
    (tmp_path / "evaluation" / f"{name}.json").unlink()
    (only,) = read(tmp_path).played
    assert only.source == "agemem, under way" and only.reward is None


def test_lines_that_cannot_be_read_are_counted(tmp_path):
    name = builders.evaluate(tmp_path, [builders.played(0)])
    stored = tmp_path / "evaluation" / f"{name}.episodes.jsonl"
    with stored.open("a") as file:
        file.write('{"index": 1, "task": "t", "ev\n')
        file.write("[1]\n")
        file.write(json.dumps({"index": 2, "task": "t", "events": [{"event": "Unknown"}]}) + "\n")
    found = read(tmp_path)
    assert (len(found.played), found.unreadable) == (1, 3)


def test_records_of_earlier_versions_are_read(tmp_path):
    """They told no task, no messages that left, and wrote the reward of `task` over its id."""
    name = builders.evaluate(tmp_path, [builders.played(0)])
    stored = tmp_path / "evaluation" / f"{name}.episodes.jsonl"
    line = json.loads(stored.read_text())
    del line["about"], line["left"]
    for event in line["events"]:
        event.pop("previous", None)
        event.pop("removed", None)
    stored.write_text(json.dumps(line) + "\n")
    record = json.loads((tmp_path / "evaluation" / f"{name}.json").read_text())
    record["tasks"][0]["task"] = record["tasks"][0].pop("task_id") and 1.0
    (tmp_path / "evaluation" / f"{name}.json").write_text(json.dumps(record))
    (only,) = read(tmp_path).played
    assert only.trajectory.left is None and only.trajectory.task.task_id == "t-0"
    assert only.reward["task"] == 1.0


def test_samples_are_read_with_their_groups_and_advantages(tmp_path):
    builders.train(tmp_path)
    group = [builders.played(0)] * 3
    steps = group[0].num_steps
    builders.sample(tmp_path, 10, group[:1], [None])
    builders.sample(tmp_path, 3, group, [[0.5] * steps, [-0.5] * steps, None])
    found = read(tmp_path)
    assert [each.step for each in found.played] == [3, 3, 3, 10], "by number, not by name"
    assert len({each.group for each in found.played}) == 2
    assert [each.advantages and each.advantages[0] for each in found.played][:3] == [
        0.5,
        -0.5,
        None,
    ]
    assert found.played[0].components == ["task", "memory"]


def test_records_of_one_method_are_told_apart_by_what_differs(tmp_path):
    played = [builders.played(0)]
    for seed in (0, 1):
        builders.evaluate(tmp_path, played, seed=seed)
    assert sorted(each.source for each in read(tmp_path).played) == [
        "Agemem, seed 0",
        "Agemem, seed 1",
    ]


def test_tables_are_of_one_set_of_tasks_each(tmp_path):
    played = [builders.played(0)]
    for tasks in ("multihop", "babyai"):
        for method in ("agemem", "other"):
            builders.evaluate(tmp_path, played, method, tasks={"name": tasks, "split": "test"})
    found = read(tmp_path)
    groups = by_tasks(found.records)
    assert sorted(groups) == ["babyai test, J by offline", "multihop test, J by offline"]
    for group in groups.values():
        assert sorted(source_titles(group).values()) == ["Agemem", "Other"]
    assert sorted(set(source_titles(found.records).values())) == [
        "Agemem, babyai", "Agemem, multihop", "Other, babyai", "Other, multihop",
    ]  # fmt: skip
