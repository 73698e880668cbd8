"""The lists of ScienceWorld's tasks, ours and AgentBoard's; no simulator runs."""

import collections
import json
import sys

import pytest

from agemem_jax.tasks.scienceworld import ScienceWorldTasks, variations
from agemem_jax.tasks.scienceworld_lessons import FAMILIES, KINDS


def _row(kind="lifespan-longest-lived", variation=5, **other):
    row = {
        "task": "scienceworld",
        "id": 0,
        "goal": "Find the animal that lives longest.",
        "subgoals": ["You move to the outside.", "You focus on the crocodile egg."],
        "difficulty": "easy",
        "additional_info": {"var": variation, "env_name": kind},
    }
    return json.dumps(row | other)


def _keys(tasks):
    return {(t.goal.options["task"], t.goal.options["variation"]) for t in tasks}


def test_our_test_split_has_three_variations_of_each_of_30_tasks():
    tasks = list(ScienceWorldTasks()("test"))
    assert set(collections.Counter(task.category for task in tasks).values()) == {3}
    assert len(tasks) == len({task.task_id for task in tasks}) == 90
    assert [task.category for task in tasks[:30]] == list(KINDS)  # a part has all tasks


def test_all_variations_are_7207_and_no_split_shares_one():
    source = ScienceWorldTasks(per_task=0)
    keys = [_keys(source(split)) for split in source.splits]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 7207


def test_few_variations_are_spread_evenly():
    assert variations("boil", "test", 3) == [21, 24, 27]
    assert variations("boil", "test") == list(range(21, 30))
    assert variations("identify-life-stages-2", "dev", 3) == [4, 5]


def test_a_task_tells_what_helps_with_it_and_distracts_with_the_rest():
    for task in ScienceWorldTasks(per_task=1)("test"):
        kind = KINDS[task.category]
        assert len(task.messages) == 3 and FAMILIES[kind.family] in task.messages[1]
        assert kind.lesson in task.messages[2] and kind.lesson in task.supporting_facts[2]
        own = {FAMILIES[kind.family]} | {
            k.lesson for k in KINDS.values() if k.family == kind.family
        }
        assert len(set(task.distractors)) == 2
        assert not any(lesson in told for lesson in own for told in task.distractors)
        assert task.goal.environment == "scienceworld" and task.goal.max_steps == 30


def test_the_bee_hive_stays_closed_where_fruit_has_to_grow():
    for task in ScienceWorldTasks(per_task=1)("test"):
        fruit = task.category == "grow-fruit" or "genetics" in task.category
        assert fruit == ("simplifications" in task.goal.options)


def test_tasks_are_the_same_again_and_end_where_they_end():
    tasks = ScienceWorldTasks()("dev")
    assert list(tasks) == list(ScienceWorldTasks()("dev"))
    for index in (-1, len(tasks)):
        with pytest.raises(IndexError, match="outside a source of 89"):
            tasks[index]


def test_no_simulator_is_imported():
    ScienceWorldTasks()("train")[0]
    assert "py4j" not in sys.modules or "agemem_jax.environments.scienceworld" in sys.modules


@pytest.mark.parametrize("place", ["test.jsonl", "scienceworld/test.jsonl"])
def test_agentboards_list_is_the_test_split_and_nothing_else_has_it(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([_row(), _row("boil", 15), ""]))
    source = ScienceWorldTasks(data_dir=str(tmp_path), per_task=0)
    first, second = source("test")
    assert first.goal.options == {
        "task": "lifespan-longest-lived",
        "variation": 5,
        "goal": "Find the animal that lives longest.",
        "subgoals": ["You move to the outside.", "You focus on the crocodile egg."],
    }
    assert second.category == "boil"
    assert len(source("train")) == 3592 - 1 and len(source("dev")) == 1796 - 1
    assert not _keys(source("train")) & _keys(source("test"))


@pytest.mark.parametrize(
    "line", ["{}", "no json", _row("boyl"), _row(variation=125), _row(additional_info=None)]
)
def test_another_line_is_refused_with_its_number(tmp_path, line):
    (tmp_path / "test.jsonl").write_text(f"{_row()}\n{line}\n")
    with pytest.raises(ValueError, match="test.jsonl, line 2, is no episode of ScienceWorld"):
        ScienceWorldTasks(data_dir=str(tmp_path))("test")


def test_a_folder_without_the_list_is_told_with_the_way_to_get_it(tmp_path):
    with pytest.raises(ValueError, match="There is no .*test.jsonl; it comes with .*agentboard"):
        ScienceWorldTasks(data_dir=str(tmp_path))("train")


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"per_task": -1}, "per_task of ScienceWorldTasks is -1; it must be at least 0"),
        ({"experiences": 3}, r"experiences of .* is 3; it must lie in \[0, 2\]"),
        ({"distractors": -1}, "distractors of .* must lie in"),
        ({"max_steps": 0}, "max_steps of .* must be at least 1"),
    ],
)
def test_wrong_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ScienceWorldTasks(**options)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="no split 'valid'; it must be one of train, dev, test"):
        ScienceWorldTasks()("valid")
