"""ALFWorld's games as tasks; small invented games stand for the files."""

import json
import pathlib
import tarfile

import pytest

from agemem_jax.tasks.alfworld import ALFWorldTasks, games, kind_of

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "alfworld"
KINDS = ("pick_and_place_simple", "look_at_obj_in_light", "pick_two_obj_and_place")


def _write(root, split, folder, solvable=True, thing="mug"):
    path = root / "json_2.1.1" / split / folder / "trial_T1" / "game.tw-pddl"
    path.parent.mkdir(parents=True)
    game = {
        "grammar": f'"task": [ {{ "rhs": "Your task is to: put a {thing} in desk." }} ]',
        "pddl_problem": "(define)",
        "solvable": solvable,
        "walkthrough": [f"take {thing} 1 from shelf 2", f"move {thing} 1 to desk 1"],
    }
    path.write_text(json.dumps(game))
    return path


@pytest.fixture()
def root(tmp_path):
    for kind in KINDS:
        _write(tmp_path, "valid_unseen", f"{kind}-Mug-None-Desk-308")
        for number in range(4):
            _write(tmp_path, "train", f"{kind}-Pen-None-Desk-{number}", thing=f"pen{number}")
    return tmp_path


def test_a_task_tells_earlier_episodes_of_its_type_and_distracts_with_others(root):
    source = ALFWorldTasks(data_dir=str(root))
    for task in source("valid_unseen"):
        assert task.category in KINDS and task.data_set == "alfworld"
        assert task.goal.environment == "alfworld" and task.goal.max_steps == 30
        assert kind_of(task.goal.options["game_file"]) == task.category
        assert task.goal.instruction.startswith("Your task is to: put a mug in desk.\n")
        assert len(task.messages) == 3 and len(task.distractors) == 2
        for told in task.messages[1:]:
            assert "What was done: take pen" in told and told.endswith("It worked.")
        assert any("was at a shelf" in fact for fact in task.supporting_facts)


def test_the_told_episodes_are_of_the_type_that_the_train_games_have(root):
    for kind in KINDS[1:]:
        for path in (root / "json_2.1.1" / "train").glob(f"{kind}-*"):
            (path / "trial_T1" / "game.tw-pddl").unlink()
    tasks = {task.category: task for task in ALFWorldTasks(data_dir=str(root))("valid_unseen")}
    assert len(tasks[KINDS[0]].messages) == 3 and not tasks[KINDS[0]].distractors
    assert len(tasks[KINDS[1]].messages) == 1 and len(tasks[KINDS[1]].distractors) == 2


def test_a_training_game_is_not_told_as_its_own_past(root):
    for task in ALFWorldTasks(data_dir=str(root), experiences=3)("train"):
        own = task.goal.instruction.split("put a ")[1].split(" in desk")[0]
        assert not any(f"put a {own} " in told for told in task.messages[1:])


def test_tasks_are_the_same_again_and_named_once(root):
    source = ALFWorldTasks(data_dir=str(root))
    tasks = list(source("train"))
    assert tasks == list(source("train"))
    assert len({task.task_id for task in tasks}) == len(tasks) == 12
    assert not any(str(root) in task.task_id for task in tasks)
    for index in (-1, 12):
        with pytest.raises(IndexError, match="outside a source of 12"):
            source("train")[index]


def test_games_that_the_official_loader_skips_are_left_out(root):
    _write(root, "valid_seen", "pick_and_place_simple-Mug-None-Desk-1")
    _write(root, "valid_seen", "pick_and_place_simple-Mug-None-Desk-2", solvable=False)
    _write(root, "valid_seen", "pick_and_place_simple-AppleSliced-None-Desk-3")
    _write(root, "valid_seen", "pick_and_place_with_movable_recep-Mug-Pan-Desk-4")
    (task,) = ALFWorldTasks(data_dir=str(root))("valid_seen")
    assert task.task_id == "alfworld-valid_seen-pick_and_place_simple-Mug-None-Desk-1/trial_T1"


def test_where_the_data_is_comes_from_the_environment_variable(root, monkeypatch):
    monkeypatch.setenv("ALFWORLD_DATA", str(root))
    assert len(ALFWorldTasks()("valid_unseen")) == 3


def test_missing_data_is_told_with_the_way_to_get_it(tmp_path):
    with pytest.raises(ValueError, match="no ALFWorld games .*; fetch them by .*alfworld-download"):
        ALFWorldTasks(data_dir=str(tmp_path))("valid_unseen")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="holds no ALFWorld games"):
        ALFWorldTasks(data_dir=str(tmp_path))("train")


def test_a_broken_file_is_named(root):
    broken = _write(root, "valid_seen", "pick_and_place_simple-Mug-None-Desk-1")
    broken.write_text('{"grammar": "", "solvable": true, "walkthrough": []}')
    with pytest.raises(ValueError, match="is no ALFWorld game with a task and a walkthrough"):
        ALFWorldTasks(data_dir=str(root))("valid_seen")[0]


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="experiences of ALFWorldTasks is -1; it must be at least"):
        ALFWorldTasks(experiences=-1)
    with pytest.raises(ValueError, match="no split 'test'; it must be one of train"):
        ALFWorldTasks()("test")


def test_the_released_games_are_all_there_and_are_read(tmp_path):
    archive = DATA / "valid_unseen.tar.gz"
    if not archive.is_file():
        pytest.skip(f"ALFWorld's {archive.name} is not in {archive.parent}; see docs/benchmarks.md")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    tasks = ALFWorldTasks(data_dir=str(tmp_path), experiences=0, distractors=0)("valid_unseen")
    assert len(tasks) == 134
    paths = games(str(tmp_path / "json_2.1.1" / "valid_unseen"))
    assert list(paths) == sorted(paths)
    for task in (tasks[index] for index in range(0, 134, 9)):
        assert len(task.messages) == 1 and len(task.query.splitlines()[0]) > 30
    counts = [kind_of(path) for path in paths]
    assert {kind: counts.count(kind) for kind in set(counts)} == {
        "look_at_obj_in_light": 18,
        "pick_and_place_simple": 24,
        "pick_clean_then_place_in_recep": 31,
        "pick_cool_then_place_in_recep": 21,
        "pick_heat_then_place_in_recep": 23,
        "pick_two_obj_and_place": 17,
    }
