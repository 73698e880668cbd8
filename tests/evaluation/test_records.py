"""Results of evaluations on disk: one file per method and settings, and nothing lost."""

import dataclasses
import json

from agemem_jax.evaluation.metrics import Measures
from agemem_jax.evaluation.records import Record, Records
from agemem_jax.rewards.estimates import Estimate
from agemem_jax.rollout.trajectory import Trajectory
from tests.rewards.builders import TASK, answer, trajectory

ONE = Estimate(0.5, 0.25, 0.75)
MEASURES = Measures(
    tasks=3, estimates=dict.fromkeys(("j", "mq", "r_memory", "reward", "tn"), ONE),
    tc={"Add_memory": 1.5}, failed_calls=0.1, categories={"bridge": {"j": ONE}},
)  # fmt: skip


def record(method="agemem", text="What it did.", **settings):
    tasks = [{"task_id": "t-1", "total": 0.5}]
    return Record(method, method.title(), settings, MEASURES, tasks, text)


def test_a_record_is_found_by_method_and_settings_as_it_was_written(tmp_path):
    records = Records(tmp_path)
    written = [
        record(temperature=1.0),
        record(temperature=0.0),
        record("no_memory", temperature=1.0),
    ]
    for each in written:
        records.write(each)
    for each in written:
        assert Records(tmp_path).find(each.method, each.settings) == each
    assert records.find("agemem", {"temperature": 0.5}) is None
    assert records.find("agemem_rag", {"temperature": 1.0}) is None


def test_a_record_of_the_version_before_is_read_as_it_was_meant(tmp_path):
    records = Records(tmp_path)
    written = record(temperature=1.0)
    records.write(written)
    (path,) = (tmp_path / "evaluation").glob("*.json")
    values = json.loads(path.read_text())
    measures = values["measures"]
    measures |= measures.pop("estimates")  # there was a field for each
    del measures["categories"]
    path.write_text(json.dumps(values))
    found = Records(tmp_path).find("agemem", {"temperature": 1.0})
    assert found.measures.estimates == MEASURES.estimates
    assert found.measures == dataclasses.replace(MEASURES, categories={})


def test_records_of_one_table_stand_together_in_the_order_in_which_they_came(tmp_path):
    records = Records(tmp_path)
    for each in (
        record("no_memory", temperature=1.0, weights="backbone"),
        record("agemem", temperature=0.0, weights="joint/30"),
        record("agemem", temperature=1.0, weights="joint/30"),
    ):
        records.write(each)
    found = [(each.method, each.settings["temperature"]) for each in records.all()]
    assert found == [("no_memory", 1.0), ("agemem", 1.0), ("agemem", 0.0)]


def test_playing_again_replaces_a_record_and_leaves_the_others(tmp_path):
    records = Records(tmp_path)
    records.write(record(temperature=1.0))
    records.write(record(temperature=0.0))
    records.write(record(temperature=1.0, text="Something else."))
    assert len(records.all()) == 2
    assert records.find("agemem", {"temperature": 1.0}).trajectories == "Something else."


def test_a_damaged_record_counts_as_missing(tmp_path):
    records = Records(tmp_path)
    records.write(record(temperature=1.0))
    (path,) = (tmp_path / "evaluation").glob("*.json")
    path.write_text(path.read_text()[:-20])
    assert records.find("agemem", {"temperature": 1.0}) is None
    assert records.all() == []


def test_results_of_an_earlier_version_are_kept_beside(tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps({"settings": {}, "results": {}}))
    records = Records(tmp_path)
    records.set_old_results_aside()
    (kept,) = tmp_path.iterdir()
    assert kept.name == "evaluation_of_an_earlier_version.json"
    records.write(record())
    (tmp_path / "evaluation.json").write_text("{}")
    records.set_old_results_aside()  # this one is made of records
    assert (tmp_path / "evaluation.json").exists()


def test_episodes_are_known_again_but_those_that_failed_or_were_cut_off(tmp_path):
    tasks = [dataclasses.replace(TASK, task_id=f"t{index}") for index in range(4)]
    played = [trajectory(answer(f"answer {index}"), task=tasks[index]) for index in range(3)]
    played[1] = Trajectory.failed(tasks[1], "it hung")
    episodes = Records(tmp_path).episodes("agemem", {"temperature": 1.0})
    for index in (2, 0, 1):
        episodes.add(index, played[index])
    (path,) = (tmp_path / "evaluation").glob("*.episodes.jsonl")
    with path.open("a") as file:
        file.write('{"index": 3, "task": "t3", "eve')
    again = Records(tmp_path).episodes("agemem", {"temperature": 1.0})
    assert again.known(tasks) == {0: played[0], 2: played[2]}
    again.add(3, trajectory(answer(), task=tasks[3]))
    assert set(again.known(tasks)) == {0, 2, 3}, "a line that was cut off takes no other with it"
    assert not Records(tmp_path).episodes("agemem", {"temperature": 0.0}).known(tasks)
    again.forget()
    assert not again.known(tasks)
