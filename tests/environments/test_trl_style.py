"""Classes written for TRL, acted in by the tools that their methods are."""

import pytest

from agemem_jax.environments.pool import EnvironmentConfig, EnvironmentPool
from agemem_jax.environments.protocol import Observation, Outcome
from agemem_jax.environments.trl_style import TRLEnvironment
from agemem_jax.protocol.tools import ToolError, ToolTable
from agemem_jax.rollout.tools.environment import declared_tools
from agemem_jax.tasks.task import EnvironmentGoal
from tests.environments import trl_game

HERE = "tests.environments.trl_game"
TREASURE = {"factory": f"{HERE}:Treasure", "full_reward": 10.0}


def play(environment, *calls):
    return [environment.call(name, arguments) for name, arguments in calls]


def treasure(**row):
    environment = TRLEnvironment(f"{HERE}:Treasure", {"place": "palm", **row}, full_reward=10.0)
    return environment, environment.reset(seed=7)


@pytest.fixture
def schemas():
    pytest.importorskip("transformers", reason="transformers reads the docstrings of the methods")


def test_the_public_methods_are_the_tools_by_hints_and_docstrings(schemas):
    table = ToolTable(declared_tools("trl", TREASURE))
    assert table.names == ("dig", "look"), "not reset, nor what is hidden or static"
    assert table.compact_schemas() == "dig(where): Dig for the treasure\nlook(): Look around"
    dig, look = (schema["function"] for schema in table.schemas())
    assert dig["description"] == "Dig for the treasure. It takes a while."
    assert dig["parameters"]["required"] == ["where"]
    assert dig["parameters"]["properties"] == {
        "where": {"type": "string", "description": "The place to dig at."},
        "depth": {"type": "integer", "description": "In metres."},
        "how": {"type": "string", "description": "How fast it is done. One of fast, slow."},
    }
    assert look["parameters"]["properties"]["directions"]["type"] == "array"
    assert table.validate("dig", {"where": "palm", "how": "Fast"}).arguments["how"] == "fast"
    with pytest.raises(ToolError, match='how of dig must be one of fast, slow, not "hard"'):
        table.validate("dig", {"where": "palm", "how": "hard"})


def test_the_tools_are_the_same_objects_for_every_row(schemas):
    rows = [{**TREASURE, "arguments": {"place": place}} for place in ("palm", "dune")]
    assert declared_tools("trl", rows[0]) is declared_tools("trl", rows[1])


def test_a_function_that_makes_the_environment_will_do(schemas):
    tools = declared_tools("trl", {"factory": f"{HERE}:make_judged"})
    assert [tool.name for tool in tools] == ["say"]


def test_reset_is_given_the_row_and_the_seed_and_its_prompt_is_the_goal():
    prompt = [{"role": "user", "content": "Find it."}]
    environment, seen = treasure(prompt=prompt)
    assert seen == Observation("There is a beach.", "Find it.")
    assert environment._environment.row == {"place": "palm", "prompt": prompt, "seed": 7}
    assert treasure(seed=3)[0]._environment.row["seed"] == 3
    narrow = TRLEnvironment(f"{HERE}:Judged", {"prompt": "Talk."})
    assert narrow.reset(1) == Observation("It begins.", "Talk."), "it takes no seed"


def test_calls_are_answered_by_text_and_the_reward_is_the_progress():
    environment, _ = treasure()
    wrong, looked, missed, found, after = play(
        environment,
        ("dig", {"where": "sea"}),
        ("look", {"directions": ["north", "east"]}),
        ("dig", {"where": "dune"}),
        ("dig", {"where": "palm", "depth": 2}),
        ("look", {}),
    )
    assert wrong == Outcome("Error: There is no sea.", 0.0, valid=False)
    assert looked == Outcome("Sea to the north.\nSea to the east.", 0.5)
    assert missed == Outcome("Sand at 1 m, slow.", 0.0), "below nothing is nothing"
    assert found == Outcome("Gold at 2 m, slow.", 1.0, done=True, won=True)
    assert after is found


def test_coroutines_are_waited_for_and_the_full_reward_ends_what_has_no_done():
    environment = TRLEnvironment(f"{HERE}:Judged")
    environment.reset(0)
    say = [("say", {"word": word}) for word in ("a", "a", "b")]
    assert [(each.progress, each.done, each.won) for each in play(environment, *say)] == [
        (0.5, False, False), (0.5, False, False), (1.0, True, True),
    ]  # fmt: skip


def test_the_reward_is_what_the_option_names():
    environment = TRLEnvironment(f"{HERE}:Judged", reward="words", full_reward=4)
    environment.reset(0)
    assert [each.progress for each in play(environment, *[("say", {"word": "a"})] * 2)] == [
        0.25, 0.5,
    ]  # fmt: skip
    environment = TRLEnvironment(f"{HERE}:Judged", reward="points")
    environment.reset(0)
    with pytest.raises(AttributeError, match="trl_game:Judged has no 'points'; the option reward"):
        environment.call("say", {"word": "a"})


def test_an_environment_that_says_whether_it_is_won_is_believed(monkeypatch):
    monkeypatch.setattr(trl_game.Treasure, "won", False, raising=False)
    environment, _ = treasure()
    (found,) = play(environment, ("dig", {"where": "palm"}))
    assert found.done and found.progress == 1.0 and not found.won


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("NoHint", "tool shout of tests.*:NoHint: Argument word is missing a type hint"),
        ("NoDocstring", "tool shout of tests.*:NoDocstring: .* it has no docstring"),
        ("Nothing", "factory is '.*:Nothing': .*trl_game has no 'Nothing'"),
    ],
)
def test_a_factory_without_good_tools_is_refused(schemas, factory, says):
    with pytest.raises(ValueError, match=says):
        declared_tools("trl", {"factory": f"{HERE}:{factory}"})


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="factory is empty; it must name a class"):
        declared_tools("trl", {})
    with pytest.raises(ValueError, match="full_reward is 0; it must be above 0"):
        TRLEnvironment(full_reward=0)


def test_it_is_played_in_a_worker_by_the_options_of_a_goal():
    pool = EnvironmentPool(EnvironmentConfig(workers=1))
    try:
        goal = EnvironmentGoal("trl", {**TREASURE, "arguments": {"place": "dune"}})
        assert pool.ask(0, "reset", goal, (1,)).text == "There is a beach."
        found = pool.ask(0, "call", arguments=("dig", {"where": "dune"}))
        assert found == Outcome("Gold at 1 m, slow.", 1.0, done=True, won=True)
    finally:
        pool.close()
