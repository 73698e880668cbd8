"""BabyAI's episodes as tasks; what needs the simulator skips without it."""

import json
import pathlib
import subprocess
import sys

import pytest

from agemem_jax.tasks import babyai
from agemem_jax.tasks.babyai import LEVELS, TEST_SEEDS, BabyAITasks

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "agentboard"
BARE = {"experiences": 0, "distractors": 0}


@pytest.fixture
def data():
    path = DATA / babyai.FILE
    if not path.is_file():
        pytest.skip(f"AgentBoard's {path.name} is not in {path.parent}; see docs/benchmarks.md")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def simulator():
    pytest.importorskip("minigrid", reason="past episodes are played (requirements-benchmarks.txt)")


def test_the_test_split_has_agentboards_episodes_in_its_order(data):
    tasks = BabyAITasks(data_dir=str(DATA), **BARE)("test")
    assert len(tasks) == len(data) == 112
    for i, row in enumerate(data):
        goal = tasks[i].goal
        assert goal.options["level"] == row["additional_info"]["subtask"]
        assert goal.options["subgoals"] == row["subgoals"]
        assert goal.seed == TEST_SEEDS[i % 4]
        assert babyai.difficulty(goal.options["level"], goal.seed) == row["difficulty"]


def test_without_agentboards_file_the_episodes_are_the_same_but_for_the_patterns():
    tasks = BabyAITasks(**BARE)("test")
    assert [task.goal.seed for task in tasks] == list(TEST_SEEDS) * 28
    assert all("subgoals" not in task.goal.options for task in tasks)
    assert len({task.task_id for task in tasks}) == 112


def test_no_training_task_is_an_evaluated_or_a_told_episode():
    told = set(babyai._TOLD_SEEDS)
    for seed in (0, 999):
        tasks = BabyAITasks(size=200, seed=seed, **BARE)("train")
        seeds = {task.goal.seed for task in tasks}
        assert not seeds & (set(TEST_SEEDS) | told)
        assert max(seeds) < 2**32
    assert not told & set(TEST_SEEDS)


def test_seeds_share_no_training_episode():
    ids = [
        {task.task_id for task in BabyAITasks(size=100, seed=s, **BARE)("train")} for s in (0, 1)
    ]
    assert len(ids[0]) == len(ids[1]) == 100 and not ids[0] & ids[1]


def test_the_train_split_goes_through_the_levels_in_turn():
    levels = ("BabyAI-GoToObj-v0", "BabyAI-Open-v0")
    tasks = BabyAITasks(levels=levels, size=5, **BARE)("train")
    assert [task.category for task in tasks] == ["GoToObj", "Open", "GoToObj", "Open", "GoToObj"]
    with pytest.raises(IndexError):
        tasks[5]


def test_a_task_tells_episodes_of_its_level_and_distracts_with_others(simulator):
    task = BabyAITasks()("train")[0]
    assert task.category == "GoToRedBallGrey" and task.data_set == "babyai"
    known, *past = task.messages
    assert known == babyai.KNOWN and len(past) == 2
    assert all(message.startswith("Earlier in GoToRedBallGrey: go to the") for message in past)
    assert all(message.endswith("go to red ball 1. It worked.") for message in past)
    assert len(task.distractors) == 2
    assert not any("Earlier in GoToRedBallGrey:" in message for message in task.distractors)
    assert task.supporting_facts and all("GoToRedBallGrey" in f for f in task.supporting_facts)


def test_what_is_told_to_have_worked_works(simulator):
    from agemem_jax.environments.babyai import BabyAI

    told = 0
    for level in (LEVELS[0], LEVELS[11], LEVELS[22]):
        for seed in babyai._TOLD_SEEDS[:3]:
            past = babyai._played(level, seed, "agentboard")
            if past is not None:
                game = BabyAI(level)
                assert past.mission in game.reset(seed).instruction
                assert [game.step(action) for action in past.actions][-1].won
                told += 1
    assert told >= 6


def test_a_task_is_the_same_in_every_process(simulator):
    source = "BabyAITasks(levels=('BabyAI-GoToDoor-v0',))"
    code = f"from agemem_jax.tasks.babyai import BabyAITasks\nprint({source}('train')[3])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(BabyAITasks(levels=("BabyAI-GoToDoor-v0",))("train")[3])


def test_the_simulator_is_not_imported_for_tasks_without_experience():
    code = (
        "import sys\n"
        "from agemem_jax.tasks.babyai import BabyAITasks\n"
        "BabyAITasks(experiences=0, distractors=0)('train')[0]\n"
        "assert not {'minigrid', 'agemem_jax.environments'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": ("GoToObj",)}, "levels"),
        ({"size": 0}, "size"),
        ({"size": 10**7}, "size"),
        ({"seed": -1}, "seed"),
        ({"max_steps": 0}, "max_steps"),
        ({"experiences": 99}, "experiences"),
        ({"distractors": -1}, "distractors"),
        ({"rule": "mine"}, "rule"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        BabyAITasks(**options)


def test_a_folder_without_agentboards_file_is_refused_with_where_to_get_it(tmp_path):
    with pytest.raises(ValueError, match="hkust-nlp/agentboard"):
        BabyAITasks(data_dir=str(tmp_path))("test")
    (tmp_path / babyai.FILE).write_text('{"subgoals": [], "additional_info": {"subtask": "x"}}\n')
    with pytest.raises(ValueError, match="must hold"):
        BabyAITasks(data_dir=str(tmp_path))("test")


def test_validation_has_the_levels_of_the_train_split_and_episodes_of_no_other_split():
    options = {"levels": (LEVELS[2],), "experiences": 0, "distractors": 0, "size": 50}
    seeds = {
        (split, seed): {task.goal.seed for task in BabyAITasks(seed=seed, **options)(split)}
        for split, seed in (("train", 0), ("train", 999), ("validation", 0), ("validation", 7))
    }
    held_out = seeds["validation", 0]
    assert len(held_out) == 50 and held_out == seeds["validation", 7]
    assert not held_out & (seeds["train", 0] | seeds["train", 999] | set(TEST_SEEDS))
    tasks = BabyAITasks(**options)("validation")
    assert {task.goal.options["level"] for task in tasks} == {LEVELS[2]}


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, validation or test"):
        BabyAITasks()("dev")
