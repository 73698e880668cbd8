"""ALFWorld games through our environment. AGEMEM_BENCHMARKS=all plays all 134 of them."""

import os
import pathlib
import re
import subprocess
import sys
import tarfile

import pytest

from agemem_jax.environments import alfworld
from agemem_jax.environments.registry import ENVIRONMENTS

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "alfworld"
ALL = os.environ.get("AGEMEM_BENCHMARKS") == "all"
PROBLEMS = {
    "put": "(and (exists (?r - receptacle) (exists (?o - object) (and (inReceptacle ?o ?r) "
    "(objectType ?o MugType) (receptacleType ?r DeskType)))))",
    "heat": "(and (exists (?r - receptacle) (exists (?o - object) (and (heatable ?o) "
    "(objectType ?o AppleType) (receptacleType ?r FridgeType) (isHot ?o) (inReceptacle ?o ?r)))))",
    "lamp": "(and (exists (?ot - object) (and (objectType ?ot DeskLampType) (toggleable ?ot) "
    "(isToggled ?ot))) (exists (?o - object) (and (objectType ?o BookType) (holds ?a ?o))))",
    "two": "(and (exists (?r - receptacle) (exists (?o1 - object) (and (objectType ?o1 CDType) "
    "(receptacleType ?r SafeType) (inReceptacle ?o1 ?r) (exists (?o2 - object) (and "
    "(objectType ?o2 CDType) (receptacleType ?r SafeType) (inReceptacle ?o2 ?r)))))))",
}


@pytest.fixture(scope="session")
def games(tmp_path_factory):
    """One game of each of the six types, or all."""
    pytest.importorskip("textworld", reason="TextWorld, which plays ALFWorld, is not installed")
    pytest.importorskip("alfworld", reason="the package alfworld is not installed")
    archive = DATA / "valid_unseen.tar.gz"
    if not archive.is_file():
        pytest.skip(f"ALFWorld's {archive.name} is not in {archive.parent}; see docs/benchmarks.md")
    folder = tmp_path_factory.mktemp("alfworld")
    with tarfile.open(archive) as file:
        members = sorted((m for m in file.getmembers() if m.isfile()), key=lambda m: m.name)
        kinds = {m.name.split("/")[2].split("-")[0]: m for m in members}
        chosen = members if ALL else list(kinds.values())
        file.extractall(folder, chosen, filter="data")
    return [str(folder / member.name) for member in chosen]


def _begun(game):
    environment = ENVIRONMENTS.build("alfworld", {"game_file": game})
    return environment, environment.reset(0)


def test_the_walkthrough_of_every_game_wins_with_rising_progress(games):
    lost = []
    # The tests below play other types to their end.
    some = [game for game in games if "pick_heat" in game or "look_at" in game]
    for game in games if ALL else some:
        environment, first = _begun(game)
        assert "Your task is to:" in first.text and "Welcome" not in first.text
        outcomes = [environment.step(action) for action in environment.demonstration()]
        environment.close()
        progress = [outcome.progress for outcome in outcomes]
        assert progress == sorted(progress) and all(outcome.valid for outcome in outcomes)
        assert 0 < max(progress[:-1]) < 1, game  # something is reached before the end
        if not outcomes[-1].won or progress[-1] != 1:
            lost.append(game)
    assert not lost


def test_older_and_sloppy_words_win_too(games):
    game = next(game for game in games if "pick_two" in game)
    environment, _ = _begun(game)
    for action in environment.demonstration():
        older = re.sub(r"^move (.+) to (.+)$", r"  Put \1  in/on \2.", action)
        outcome = environment.step(older.upper())
        assert outcome.valid, older
    assert outcome.won
    assert environment.step("look") is outcome  # nothing changes behind the end
    environment.close()


def test_what_cannot_be_done_changes_nothing_and_is_no_error(games):
    environment, _ = _begun(games[0])
    before = environment.actions()
    for action in ("", "fly to the moon", "take", "open sesame 1"):
        outcome = environment.step(action)
        assert (outcome.text, outcome.valid, outcome.done) == ("Nothing happens.", False, False)
    assert environment.actions() == before
    assert all(environment.step(action).valid for action in ("look", "inventory"))
    environment.close()


def test_the_labels_of_agentboard_replace_the_subgoals(games):
    game = next(game for game in games if "pick_and_place" in game)
    labels = [r"You put the \w+ \d+ in/on the", r"never seen"]
    environment = ENVIRONMENTS.build("alfworld", {"game_file": game, "subgoals": labels})
    environment.reset(0)
    *walk, last = environment.demonstration()
    assert [environment.step(action).progress for action in walk] == [0.0] * len(walk)
    assert environment.step(last).progress == 1.0  # won, whatever else was to be seen
    environment.close()


def test_nothing_is_printed_and_jax_is_not_needed(games):
    code = (
        "import sys; from agemem_jax.environments.registry import ENVIRONMENTS; "
        f"e = ENVIRONMENTS.build('alfworld', {{'game_file': {games[0]!r}}}); "
        "e.reset(0); e.step('look'); e.close(); assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "kind, texts, reached",
    [
        ("put", ["You pick up the mug 2 from the shelf 1."], 1),
        ("put", ["You pick up the cup 2 from the shelf 1."], 0),
        ("heat", ["You pick up the apple 1 from the desk 1.", "You heat the apple 1 using"], 2),
        ("heat", ["You cool the apple 1 using the fridge 1."], 0),
        ("lamp", ["You turn on the desklamp 1.", "You pick up the book 1 from"], 2),
        ("two", ["You pick up the cd 1 from", "You pick up the cd 1 from"], 1),
        ("two", ["You pick up the cd 1 from", "You pick up the cd 2 from"], 2),
        ("two", ["You pick up the cd 1 from", "You move the cd 1 to the safe 1."], 2),
        ("two", ["You move the cd 1 to the desk 1."], 0),
    ],
)
def test_subgoals_follow_from_the_goal(kind, texts, reached):
    subgoals = alfworld.goal_subgoals(f"(:init )(:goal {PROBLEMS[kind]})")
    for text in texts:
        for subgoal in subgoals:
            subgoal.see(text)
    assert sum(subgoal.reached for subgoal in subgoals) == reached


@pytest.mark.parametrize(
    "said, meant",
    [
        ("put mug 1 on desk 2", "move mug 1 to desk 2"),
        ("Place mug 1 into desk 2", "move mug 1 to desk 2"),
        ("put mug 1 in/on desk 2.", "move mug 1 to desk 2"),
        ("clean mug 1 using sinkbasin 1", "clean mug 1 with sinkbasin 1"),
        ("take book 1", "take book 1 from bed 1"),
        ("pick up book 1 from bed 1", "take book 1 from bed 1"),
        ("take pen 1", None),  # two places have one: which is not said
        ("turn on desklamp 1", "use desklamp 1"),
        ("put bowl 1 in box 1", "put bowl 1 into box 1"),
        ("go to desk 3", None),
    ],
)
def test_an_action_is_understood_where_one_reading_exists(said, meant):
    possible = [
        "move mug 1 to desk 2",
        "clean mug 1 with sinkbasin 1",
        "take book 1 from bed 1",
        "take pen 1 from desk 1",
        "take pen 1 from shelf 1",
        "use desklamp 1",
        "put bowl 1 into box 1",
        "go to desk 2",
    ]
    assert alfworld.understood(said, possible) == meant


def test_a_wrong_file_is_told_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="There is no ALFWorld game .*; game_file must be"):
        alfworld.ALFWorld(game_file=str(tmp_path / "game.tw-pddl")).reset(0)
    (tmp_path / "game.tw-pddl").write_text("[]")
    with pytest.raises(ValueError, match="is no ALFWorld game"):
        alfworld.ALFWorld(game_file=str(tmp_path / "game.tw-pddl")).reset(0)
    with pytest.raises(ValueError, match="no regular expression"):
        alfworld.ALFWorld(game_file="x", subgoals=("(",))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    game = tmp_path / "game.tw-pddl"
    game.write_text('{"pddl_problem": ""}')
    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(ImportError, match="needs the package textworld: pip install -r req"):
        alfworld.ALFWorld(game_file=str(game)).reset(0)


def test_a_game_that_was_not_reset_takes_no_action():
    with pytest.raises(RuntimeError, match="once it has been reset"):
        alfworld.ALFWorld(game_file="x").step("look")


def test_a_game_without_a_walkthrough_has_no_demonstration(tmp_path):
    game = tmp_path / "game.tw-pddl"
    game.write_text('{"pddl_problem": "", "walkthrough": null}')
    with pytest.raises(LookupError, match="holds no walkthrough"):
        alfworld.ALFWorld(game_file=str(game)).demonstration()
