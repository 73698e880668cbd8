"""Environments behind servers of OpenEnv, which run in this process."""

import importlib
import sys

import pytest

from agemem_jax.environments.openenv import OpenEnv
from agemem_jax.environments.protocol import Observation, Outcome
from agemem_jax.protocol.tools import ToolTable
from agemem_jax.rollout.tools.environment import declared_tools

ABSENT = "openenv is not installed (requirements-openenv.txt)"


@pytest.fixture(scope="module")
def servers():
    pytest.importorskip("openenv", reason=ABSENT)
    return importlib.import_module("tests.environments.openenv_server")


@pytest.fixture(scope="module")
def numbers(servers):
    with servers.served(servers.numbers()) as address:
        yield address


@pytest.fixture(scope="module")
def rooms(servers):
    with servers.served(servers.rooms()) as address:
        yield address


@pytest.fixture
def started():
    """Resets environments, and closes them behind the test."""
    opened = []

    def start(address, seed=5, **options):
        opened.append(OpenEnv(address, **options))
        return opened[-1], opened[-1].reset(seed)

    yield start
    for environment in opened:
        environment.close()


def test_the_echo_environment_of_openenv_itself_is_played(servers, started, tmp_path, monkeypatch):
    from openenv.cli.commands.init import init

    init("echo_world", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    server = importlib.import_module("echo_world.server.app")
    names = {
        "client": "echo_world.client:EchoWorldEnv",
        "action": "echo_world.models:EchoWorldAction",
    }
    try:
        with servers.served(server.app) as address:
            environment, seen = started(
                address, **names, field="message", observation="echoed_message"
            )
            assert seen.text == "Echo World environment ready!"
            assert environment.step(" Hello ") == Outcome("Hello", 0.5)
            environment.close()
            environment, _ = started(address, **names)
            assert environment.step('{"message": "Hey"}').text == (
                '{"echoed_message": "Hey", "message_length": 3}'
            )
            wrong = environment.step('{"massage": "Hey"}')
            assert wrong.text.startswith("Error: message: Field required; massage: Extra inputs")
            assert not wrong.valid
            environment.close()
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "echo_world"]:
            del sys.modules[name]


def test_text_goes_into_one_field_and_one_field_is_shown(numbers, started):
    environment, seen = started(
        numbers, field="number", observation="said.-1.text", full_reward=10.0
    )
    assert seen == Observation("Find it.")
    assert environment.step(" 9 ") == Outcome("lower", 0.0)
    found = environment.step("5")
    assert found == Outcome("found", 1.0, done=True, won=True)
    assert environment.step("6") is found


def test_without_fields_both_sides_are_json(numbers, started):
    environment, seen = started(numbers)
    assert seen.text == '{"said": [{"text": "Find it."}], "left": 3}', "what is empty is left out"
    assert environment.step('{"number": 2, "loud": true}').text.endswith(
        '{"text": "HIGHER"}], "left": 2}'
    )
    for text in ("2", "guess 2"):
        refused = environment.step(text)
        assert refused.text.startswith("Error: an action is a JSON object") and not refused.valid


def test_an_action_that_the_server_refuses_is_told_and_the_episode_goes_on(numbers, started):
    environment, _ = started(numbers, field="number", observation="left", full_reward=10.0)
    for text, reason in (("four", "VALIDATION_ERROR"), ("13", "that number is not said here")):
        refused = environment.step(text)
        assert reason in refused.text and not refused.valid and not refused.done
    assert environment.step("4").text == "2"


@pytest.mark.parametrize(
    ("reward", "full_reward", "reached"),
    [("last", 10.0, 1.0), ("sum", 10.0, 0.9), ("sum", 9.0, 1.0), ("last", 20.0, 0.5)],
)
def test_what_counts_is_the_last_reward_or_their_sum(
    numbers, started, reward, full_reward, reached
):
    environment, _ = started(numbers, field="number", reward=reward, full_reward=full_reward)
    assert environment.step("1").progress == 0.0, "below nothing is nothing"
    outcome = environment.step("5")
    assert (outcome.progress, outcome.won) == (pytest.approx(reached), reached == 1.0)


def test_an_end_without_the_full_reward_is_not_won(numbers, started):
    environment, _ = started(numbers, field="number", arguments={"left": 1})
    outcome = environment.step("1")
    assert outcome.done and not outcome.won and outcome.progress == 0.0


def test_episodes_at_the_same_time_are_sessions_of_their_own(numbers, started):
    one, _ = started(numbers, seed=1, field="number", observation="said.-1.text")
    two, _ = started(numbers, seed=2, field="number", observation="said.-1.text")
    assert [each.step("1").text for each in (one, two)] == ["found", "higher"]


def test_the_tools_that_a_server_lists_are_the_agents(rooms, started):
    options = {"base_url": rooms, "acts_by": "tools"}
    table = ToolTable(declared_tools("openenv", options))
    assert table.compact_schemas() == "walk(direction): Walk in a direction\nlook(): Look around"
    assert table.validate("walk", {"direction": "west", "steps": "2"}).arguments["steps"] == 2
    assert declared_tools("openenv", options)[0] is table["walk"]
    environment, seen = started(rooms, acts_by="tools")
    assert seen.text == "It begins.", "it shows nothing"
    assert environment.call("walk", {"direction": "west"}) == Outcome("You are 1 to the west.")
    assert environment.call("look", {}).text == '{"walls":4}'
    wrong = environment.call("fly", {})
    assert not wrong.valid and "fly" in wrong.text


def test_a_server_of_actions_lists_no_tools(numbers):
    assert declared_tools("openenv", {"base_url": numbers}) is None
    with pytest.raises(ValueError, match="acts_by is 'tools', but the server at .* lists none"):
        declared_tools("openenv", {"base_url": numbers, "acts_by": "tools"})


def test_a_field_that_is_not_there_and_a_server_that_is_not_there_are_told(numbers, started):
    with pytest.raises(LookupError, match="observation is 'text', which is not in what is seen"):
        started(numbers, observation="text")
    with pytest.raises(ConnectionError, match="Failed to connect to ws://127.0.0.1:9"):
        started("http://127.0.0.1:9")


def test_a_package_that_is_not_installed_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "openenv", None)
    monkeypatch.setitem(sys.modules, "openenv.core", None)
    with pytest.raises(ImportError, match="openenv is not installed; pip install -r req"):
        OpenEnv().reset(0)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"full_reward is -1; it must be above 0"):
        OpenEnv(full_reward=-1)
    with pytest.raises(ValueError, match="openenv.acts_by is 'hand'; it must be one of action, t"):
        declared_tools("openenv", {"acts_by": "hand"})
