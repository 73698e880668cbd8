"""Trajectories written as lines and read again."""

import dataclasses
import json

import pytest

from agemem_jax.protocol.events import DroppedMessagesEvent, FormatEvent, RoundLimitEvent
from agemem_jax.rollout import trajectory_json
from agemem_jax.rollout.trajectory import Cost, Trajectory, TranscriptEntry
from agemem_jax.tasks.task import EnvironmentGoal
from tests.rewards.builders import TASK, acted, add, answer, retrieve, shown, trajectory


def written():
    played = trajectory(
        add("mem_1", "Ana lives in Zürich.\u2028\n"), answer("Fine.", stage=1),
        DroppedMessagesEvent(1, 0, 2), FormatEvent(2, 1, "No tags."), shown("one"),
        retrieve("one", "two"), RoundLimitEvent(3, 2, 8), answer("Velton"), acted(0.5, actions=3),
    )  # fmt: skip
    played.transcript = [TranscriptEntry(1, 0, "act", "<think>…</think>")]
    played.prompt_tokens, played.memory = [10, 12], {"mem_1": "Ana lives in Zürich."}
    return played


def test_what_is_read_is_what_was_written_segments_aside():
    line = trajectory_json.to_line(3, written())
    assert len(line.splitlines()) == 1 or "\n" not in line
    index, read = trajectory_json.from_line(line, {3: TASK})
    assert index == 3 and read == written()


def test_what_an_episode_cost_is_kept_and_missing_in_lines_of_earlier_versions():
    played = written()
    played.cost = Cost(calls=2, prompt_tokens=22, sampled_tokens=9, seconds=0.5)
    line = trajectory_json.to_line(3, played)
    read = trajectory_json.from_line(line, {3: TASK})[1]
    assert read == played and read.cost.seconds == 0.5
    values = json.loads(line)
    del values["cost"]
    assert trajectory_json.from_line(json.dumps(values), {3: TASK})[1].cost is None


def test_a_line_says_enough_of_its_task_to_be_read_without_it():
    played = written()
    played.left = [None]
    read = trajectory_json.read_alone(json.loads(trajectory_json.to_line(3, played)))
    assert read.events == played.events and read.left == [None]
    assert read.task == TASK
    walked = dataclasses.replace(TASK, goal=EnvironmentGoal("babyai", instruction="Go there."))
    read = trajectory_json.read_alone(
        json.loads(trajectory_json.to_line(3, dataclasses.replace(played, task=walked)))
    )
    assert not read.task.is_question and read.task.query == "Go there."


def test_a_line_of_an_earlier_version_is_read_with_the_id_of_its_task():
    line = json.loads(trajectory_json.to_line(3, written()))
    del line["about"], line["left"]
    read = trajectory_json.read_alone(line)
    assert read.task.task_id == TASK.task_id and read.left is None
    assert trajectory_json.from_line(json.dumps(line), {3: TASK}) == (3, written())


def test_a_failed_episode_keeps_its_fault():
    failed = Trajectory.failed(TASK, "An episode of task t failed: it hung.")
    assert trajectory_json.from_line(trajectory_json.to_line(0, failed), {0: TASK})[1] == failed


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[:-20],
        lambda line: json.dumps(json.loads(line) | {"task": "another"}),
        lambda line: json.dumps(json.loads(line) | {"index": 7}),
        lambda line: json.dumps(json.loads(line) | {"events": [{"event": "Unknown"}]}),
    ],
)
def test_a_line_that_is_cut_off_or_of_another_task_is_no_trajectory(spoil):
    with pytest.raises((ValueError, KeyError, TypeError)):
        trajectory_json.from_line(spoil(trajectory_json.to_line(3, written())), {3: TASK})
