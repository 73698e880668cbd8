"""Stage 3 in an environment that brings its own tools in place of `Act`."""

import dataclasses
import json

import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.protocol.tools import Parameter, ToolTable
from agemem_jax.rollout.call_counts import calls_per_episode, count_calls
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.goals import tools_for
from agemem_jax.tasks.task import EnvironmentGoal, Question, Task
from tests.environments import tooled
from tests.rollout.scripted import NOTED, answer, call, play, tools

BY_NAME = "tests.environments.tooled:Lock"


def lock(environment=tooled.Lock, max_steps=30, **options):
    return Task("lock", EnvironmentGoal(environment, options, max_steps=max_steps), ("It is 42.",))


@pytest.fixture
def store():
    return MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=1, entries=4)


@pytest.fixture
def config():
    return EpisodeConfig(
        max_context_tokens=900, max_rounds=3, prompt_style="compact", stages=(1, 3)
    )


@pytest.mark.parametrize("environment", [tooled.Lock, BY_NAME], ids=["as a class", "by name"])
def test_a_call_is_answered_by_what_the_environment_says(chat, store, config, environment):
    played, requests = play(
        chat, store, config, NOTED,
        call("Turn", digit=4), call("Pull"), call("Turn", digit="2"), call("Pull"),
        task=lock(environment),
    )  # fmt: skip
    said = [request.context.messages[-1].text for request in requests]
    assert said[1:] == ["The lock is closed.", "It shows 4.", "It stays closed.", "It shows 42."]
    outcome = played.outcome
    assert (outcome.score, outcome.progress) == (1.0, 1.0)
    assert (outcome.actions, outcome.valid_actions) == (4, 3)


def test_the_tools_stand_in_prompts_and_schemas_in_place_of_act(chat, config):
    full = dataclasses.replace(config, prompt_style="full", max_context_tokens=4000)
    goal = lock().goal
    compact = EpisodeRules(config, chat, [goal])
    table = compact.tools(goal)
    assert table.names[-2:] == ("Turn", "Pull") and "Act" not in table
    text = compact.system(table).text
    assert "Turn(digit): turn the next wheel" in text and "a goal to act for" in text
    text = EpisodeRules(full, chat, [goal]).system(table).text
    schemas = [json.loads(line) for line in text.splitlines() if line.startswith('{"name"')]
    (turn,) = [schema for schema in schemas if schema["name"] == "Turn"]
    assert turn["parameters"]["properties"]["digit"]["maximum"] == 9
    assert turn["parameters"]["required"] == ["digit"]


def test_a_wrong_call_is_refused_with_a_sentence_and_is_no_action(chat, store, config):
    played, requests = play(
        chat, store, config, NOTED,
        call("Turn", digit=12), call("Act", action="pull"), call("Turn", digit=4),
        task=lock(max_steps=1),
    )  # fmt: skip
    said = [request.context.messages[-1].text for request in requests]
    assert said[2] == "Error: digit of Turn must be from 0 to 9, not 12."
    assert said[3].startswith('Error: There is no tool "Act"; use one of Add_memory')
    assert said[3].endswith("Turn, Pull.")
    assert played.outcome.actions == 1 and played.outcome.progress == 0.5


def test_tool_counts_hold_them(chat, store, config):
    played, _ = play(
        chat, store, config, NOTED, call("Turn", digit=1), call("Turn", digit=2), call("Pull"),
        task=lock(max_steps=3),
    )  # fmt: skip
    assert played.tools[-2:] == ("Turn", "Pull")
    counts = calls_per_episode([count_calls(played)])
    assert (counts["Turn"], counts["Pull"], sum(counts.values())) == (2.0, 1.0, 3.0)


def test_nothing_happens_before_the_environment_is_there(chat, store, config):
    played, _ = play(
        chat, store, config, call("Pull"), answer("Fine."), call("Pull"), task=lock(max_steps=1)
    )
    assert tools(played)[0].error == "There is nothing to act in yet."
    assert played.outcome.actions == 1


def test_the_options_of_a_goal_decide_which_tools_there_are():
    def names(environment, **options):
        return [spec.name for spec in tools_for(EnvironmentGoal(environment, options))]

    assert names(tooled.Lock) == names(BY_NAME, code="7") == ["Turn", "Pull"]
    assert names(tooled.Lock, wheels=False) == ["Pull"]
    assert names(f"{BY_NAME}(wheels=False)") == ["Pull"], "options in the name count, too"
    assert names(tooled.Fixed, wheels=True) == ["Pull"]
    assert names(tooled.Either) == ["Act"]


def test_all_episodes_with_the_same_tools_share_a_prompt(chat, config):
    one, other = lock(code="1").goal, lock(BY_NAME, code="2").goal
    assert tools_for(one) is tools_for(other)
    rules = EpisodeRules(config, chat, [one])
    assert rules.tools(one) is rules.tools(other)
    assert rules.system(rules.tools(other)).token_ids == rules.shared_prefix
    both = EpisodeRules(config, chat, [one, Question("", "")]).shared_prefix
    assert 0 < len(both) < len(rules.shared_prefix)


@pytest.mark.parametrize(
    ("environment", "options", "says"),
    [
        (tooled.NoCall, {}, "NoCall declares tools and has no method call"),
        (tooled.NoTools, {}, "tools of the environment NoTools are .*a list of ToolSpecs"),
        (tooled.WrongTools, {}, "A tool of the environment WrongTools is a builtin_function"),
        (BY_NAME, {"cod": "1"}, f"{BY_NAME} has no option 'cod'; did you mean 'code'"),
        ("lok", {}, "There is no environment 'lok'"),
    ],
)
def test_tools_that_could_not_be_called_are_refused_when_they_are_asked_for(
    environment, options, says
):
    with pytest.raises(ValueError, match=says):
        tools_for(EnvironmentGoal(environment, options))


def test_an_argument_may_be_a_list():
    several = dataclasses.replace(
        tooled.TURN, name="Turn_all", handler=print, example={"digits": [4, 2]},
        parameters=(Parameter("digits", list, True, "Of all wheels."),),
    )  # fmt: skip
    table = ToolTable([several])
    assert table.validate("Turn_all", {"digits": [4, 2]}).arguments == {"digits": [4, 2]}
    (schema,) = table.schemas()
    assert schema["function"]["parameters"]["properties"]["digits"]["type"] == "array"
    with pytest.raises(ValueError, match='digits of Turn_all must be a JSON array, not "42"'):
        table.validate("Turn_all", {"digits": "42"})
