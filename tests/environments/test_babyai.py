"""BabyAI told and played in words, against AgentBoard's file and against minigrid itself."""

import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

pytest.importorskip("minigrid", reason="BabyAI needs minigrid (requirements-benchmarks.txt)")

from agemem_jax.environments.babyai import BabyAI, environment, expert, moves, simulator
from agemem_jax.environments.registry import ENVIRONMENTS

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "agentboard"
ALL = os.environ.get("AGEMEM_BENCHMARKS") == "all"


@pytest.fixture(scope="module")
def official():
    """AgentBoard's rows: all 112, or a spread sample."""
    path = DATA / "babyai_test.jsonl"
    if not path.is_file():
        pytest.skip(f"AgentBoard's {path.name} is not in {path.parent}; see docs/benchmarks.md")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [(row, 1234 + i % 4) for i, row in enumerate(rows)]
    return rows if ALL else rows[::5]


def game_of(row, **options):
    return BabyAI(row["additional_info"]["subtask"], tuple(row["subgoals"]), **options)


def started(level, seed, **options):
    game = BabyAI(level, **options)
    game.reset(seed)
    return game


def test_the_first_view_is_told_letter_by_letter_as_agentboard_tells_it(official):
    for row, seed in official:
        assert game_of(row).reset(seed).text == row["additional_info"]["init_obs"]


def test_the_instruction_holds_the_goal(official):
    for row, seed in official:
        assert row["goal"] in game_of(row).reset(seed).instruction


@pytest.mark.parametrize("rule", ["agentboard", "level"])
def test_demonstrations_reach_nearly_every_goal(official, rule):
    won = 0
    for row, seed in official:
        game = game_of(row, rule=rule)
        game.reset(seed)
        try:
            outcomes = [game.step(action) for action in game.demonstration()]
        except LookupError:
            continue
        assert all(outcome.valid for outcome in outcomes)
        assert outcomes[-1].won and outcomes[-1].progress == 1
        won += 1
    assert won >= len(official) - 4


def test_the_steps_of_the_bot_can_all_be_said_as_actions(official):
    won = 0
    for row, seed in official:
        game = game_of(row, rule="level")
        game.reset(seed)
        try:
            steps = simulator.bot_steps(simulator.world(game.level, seed)[0])
        except LookupError:
            continue
        won += expert._Literal(game, steps).actions() is not None
    assert won >= len(official) - 4


def test_a_thing_in_sight_is_reached_by_one_action():
    game = started("BabyAI-GoToRedBallGrey-v0", 1237)
    assert game.demonstration() == ["go to red ball 1"]
    outcome = game.step("go to red ball 1")
    assert outcome.won and outcome.done and "right in front of you 1 steps away" in outcome.text


def test_a_thing_out_of_sight_is_looked_for_by_turning_right():
    game = started("BabyAI-GoToRedBallGrey-v0", 1235)
    actions = game.demonstration()
    assert set(actions[:-1]) == {"turn right"} and actions[-1] == "go to red ball 1"


def test_a_demonstration_leaves_the_game_as_it_is():
    game, other = (started("BabyAI-Pickup-v0", 7) for _ in range(2))
    game.demonstration()
    assert game.actions() == other.actions()
    assert game.step("turn left") == other.step("turn left")


def test_where_the_bot_goes_round_in_circles_there_is_no_demonstration():
    with pytest.raises(LookupError, match="circles"):
        started("BabyAI-UnlockToUnlock-v0", 1234).demonstration()


def test_the_actions_listed_are_those_that_are_valid():
    rng = random.Random(0)
    for level in ("BabyAI-Pickup-v0", "BabyAI-UnlockLocalDist-v0", "BabyAI-GoToSeqS5R2-v0"):
        game = started(level, 5)
        for _ in range(20):
            listed = game.actions()
            for text, move in game.moves().items():
                assert (text in listed) == (move.steps is not None)
            outcome = game.step(rng.choice(listed))
            assert outcome.valid
            if outcome.done:
                break


def test_ways_are_as_short_as_a_plain_search_finds():
    """Compared with distances that are relaxed until nothing changes."""
    for seed in range(8):
        view = started("BabyAI-GoToLocalS8N7-v0", seed).view
        solid = view.walls | {thing.position for thing in view.things}
        free = {(x, y) for x in view.columns for y in view.rows} - solid | {view.position}
        distance = {(view.position, view.heading): 0}
        changed = True
        while changed:
            changed = False
            for pose, far in list(distance.items()):
                for step in (simulator.FORWARD, simulator.LEFT, simulator.RIGHT):
                    new = moves.moved(pose, step)
                    if new[0] in free and far + 1 < distance.get(new, 10**6):
                        distance[new], changed = far + 1, True
        ways = moves.Ways(view)
        for thing in view.things:
            facing = [far for pose, far in distance.items() if moves.front(pose) == thing.position]
            way = ways.to(thing.position)
            assert (None if way is None else len(way)) == min(facing, default=None)


@pytest.mark.parametrize(
    ("sloppy", "meant"),
    [
        ("  Go  to RED ball 1. ", "go to red ball 1"),
        ("pick up red ball 1", "pickup red ball 1"),
        ("check actions", moves.CHECK),
        ("Turn Left", "turn left"),
    ],
)
def test_sloppy_actions_are_read_where_one_reading_exists(sloppy, meant):
    assert moves.normalised(sloppy) == meant
    games = [started("BabyAI-GoToRedBallGrey-v0", 1237) for _ in range(2)]
    assert games[0].step(sloppy) == games[1].step(meant)
    assert games[0].step("turn right").valid


@pytest.mark.parametrize(
    "action", ["", "fly", "go to red ball", "pickup red ball 9", "toggle", "4"]
)
def test_an_action_that_cannot_be_done_is_answered_and_changes_nothing(action):
    game = started("BabyAI-GoToRedBallGrey-v0", 1237)
    before = game.actions()
    outcome = game.step(action)
    assert not outcome.valid and outcome.text and not outcome.done
    assert game.actions() == before


def test_what_is_carried_is_seen_and_can_be_dropped():
    game = started("BabyAI-PickupLoc-v0", 1235)
    ball = next(text for text in game.actions() if text.startswith("pickup"))
    game.rule = "level"
    name = ball.removeprefix("pickup ").rsplit(" ", 1)[0]
    outcome = game.step(ball)
    assert outcome.text.splitlines()[0].endswith(f"You are carrying a {name}.")
    if not outcome.done:
        assert "drop" in game.actions() or not game.step("drop").valid
        assert game.step("turn right").valid


def test_a_locked_door_is_opened_with_its_key():
    game = started("BabyAI-UnlockLocalDist-v0", 1234)
    actions = game.demonstration()
    assert any(action.startswith("pickup") and "key" in action for action in actions)
    locked = [text for text, move in game.moves().items() if "locked door" in text and move.refused]
    outcomes = [game.step(action) for action in locked + actions]
    assert all("not carrying a key" in each.text for each in outcomes[: len(locked)])
    assert outcomes[-1].won


def test_progress_counts_the_patterns_seen_at_most_one_an_action():
    patterns = ("There is a red ball **", " You are not carrying anything.", "never seen")
    game = started("BabyAI-GoToRedBallGrey-v0", 1237, subgoals=patterns)
    assert game.step("fly").progress == 0
    progress = [game.step(action).progress for action in ("move forward", "turn left", "turn left")]
    assert progress == pytest.approx([1 / 3, 2 / 3, 2 / 3])


def test_progress_never_falls(official):
    for row, seed in official[:6]:
        game, rng = game_of(row), random.Random(seed)
        game.reset(seed)
        progress = []
        for _ in range(15):
            outcome = game.step(rng.choice(game.actions()))
            progress.append(outcome.progress)
            if outcome.done:
                break
        assert progress == sorted(progress) and 0 <= progress[0] and progress[-1] <= 1


def test_a_pattern_is_matched_within_one_sentence():
    text = "There is a red ball 1 right in front of you 2 steps away.  There is a key."
    assert environment.matches(" There is a red ball ** right in front of you 2 steps away.", text)
    assert environment.matches("There is a * key", "There is a red key")
    assert not environment.matches("There is a red ** key", text)


def test_all_patterns_seen_end_the_episode_by_agentboards_rule_alone():
    patterns = ("You are not carrying anything.",)
    for rule, over in (("agentboard", True), ("level", False)):
        game = started("BabyAI-GoToRedBallGrey-v0", 1237, subgoals=patterns, rule=rule)
        outcome = game.step("turn left")
        assert outcome.progress == 1
        assert (outcome.done, outcome.won) == (over, over)


def test_a_goal_reached_in_passing_counts_by_the_levels_rule_alone():
    for rule, over in (("agentboard", False), ("level", True)):
        game = started("BabyAI-OpenRedDoor-v0", 1234, rule=rule)
        action = next(text for text in game.actions() if text.startswith("toggle and go through"))
        assert game.step(action).won == over


def test_once_done_the_last_outcome_comes_again():
    game = started("BabyAI-GoToRedBallGrey-v0", 1237)
    last = game.step("go to red ball 1")
    assert game.step("turn left") == last


def test_nothing_is_printed():
    code = (
        "from agemem_jax.environments.babyai import BabyAI\n"
        "game = BabyAI('BabyAI-UnlockToUnlock-v0')\n"
        "game.reset(3)\n"
        "game.step('turn left')\n"
        "try: game.demonstration()\n"
        "except LookupError: pass\n"
        "import sys; assert 'jax' not in sys.modules\n"
    )
    environ = {k: v for k, v in os.environ.items() if k != "PYGAME_HIDE_SUPPORT_PROMPT"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environ)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


@pytest.mark.parametrize("level", ["BabyAI-GoToNowhere-v0", "MiniGrid-Empty-5x5-v0"])
def test_an_unknown_level_is_refused(level):
    with pytest.raises(ValueError, match="no level"):
        BabyAI(level).reset(0)


def test_it_is_built_by_name_from_values_of_json():
    options = json.loads(json.dumps({"level": "BabyAI-Open-v0", "subgoals": ["a", "b"]}))
    game = ENVIRONMENTS.build("babyai", options)
    assert isinstance(game, BabyAI) and game.subgoals == ("a", "b")
    with pytest.raises(ValueError, match="rule"):
        ENVIRONMENTS.build("babyai", {"rule": "none"})
