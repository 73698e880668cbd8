"""What bounds an episode: the token budget, calls of one response, messages of a task."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agemem_jax.protocol.events import DroppedMessagesEvent, OverflowEvent, ToolEvent
from agemem_jax.protocol.prompts import tool_call_text
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.requests import Generated
from agemem_jax.rollout.tools.registry import tool_table
from agemem_jax.tasks.task import Question, Task
from tests.rollout.scripted import NOTED, TASK, answer, play, tools

LONG = "What is said of " + "many words " * 400
FULL = Task("full", Question("Who?", "Bo"), (LONG,), (LONG,))


@pytest.fixture
def config():
    return EpisodeConfig(max_context_tokens=900, max_rounds=2, prompt_style="compact")


class Answering:
    """A backend of several slots that answers whatever is asked."""

    def __init__(self, chat, slots):
        self.slots, self._chat, self._done = slots, chat, []

    def begin(self, slot, rollout):
        pass

    def submit(self, slot, request):
        ids = (*self._chat.encode(answer("Oslo")), self._chat.stop_id)
        self._done.append((slot, Generated(ids, np.zeros(len(ids), np.float32))))

    def step(self):
        done, self._done = self._done, []
        return done


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({}, 1),
        ({"auto_retrieve": 0}, 1),
        ({"stages": (2, 3)}, 2),
        ({"stages": (2, 3), "retrieve_each_step": True}, 2),
        ({"stages": (3,)}, 3),
    ],
)
def test_a_first_prompt_over_the_budget_ends_its_episode_and_no_other(
    chat, store, config, changes, stage
):
    rules = EpisodeRules(dataclasses.replace(config, **changes), chat)
    full = dataclasses.replace(FULL, goal=Question(LONG, "Oslo"))
    tasks = [full, TASK, full, full, full, TASK, full]
    rollouts = [Rollout(task, jax.random.key(0)) for task in tasks]
    trajectories = run_episodes(rollouts, rules, store, Answering(chat, 2))
    assert [t.task for t in trajectories] == tasks
    for trajectory in trajectories:
        if trajectory.task is TASK:
            assert trajectory.outcome.answer == "Oslo"
            continue
        assert isinstance(trajectory.events[-1], OverflowEvent)
        assert trajectory.events[-1].stage == stage
        assert (trajectory.num_steps, trajectory.segments) == (0, [])
        assert trajectory.mean_prompt_tokens is None and trajectory.fault is None


def test_only_so_many_calls_of_one_response_are_run(chat, store, config):
    few = dataclasses.replace(config, max_calls=3, max_context_tokens=20_000)
    facts = [("Add_memory", {"content": f"Fact {number}."}) for number in range(300)]
    response = f"<think>So.</think>{tool_call_text(facts)}"
    trajectory, requests = play(chat, store, few, response, NOTED, NOTED, answer("Oslo"))
    assert [event.ok for event in tools(trajectory)] == [True] * 3 + [False] * 297
    assert list(trajectory.memory.values()) == ["Fact 0.", "Fact 1.", "Fact 2."]
    told = requests[1].context.messages[3].text
    assert "Only the first 3 calls of a reply are run; 297 were not." in told
    assert told.count("\n") == 3, "said once, and not for each of them"


def test_a_call_that_cannot_be_read_counts_as_one(chat, store, config):
    few = dataclasses.replace(config, max_calls=2)
    calls = [("Fly", {}), ("Add_memory", {"content": "a"}), ("Add_memory", {"content": "b"})]
    response = f"<think>So.</think>{tool_call_text(calls)}"
    trajectory, _ = play(chat, store, few, response, NOTED, NOTED, answer("Oslo"))
    assert [event.ok for event in tools(trajectory)] == [False, True, False]
    assert [event.arguments.get("content") for event in tools(trajectory)] == [None, "a", "b"]


@pytest.mark.parametrize("limit", [1, 2])
def test_one_response_causes_no_more_generations_than_it_may_have_summaries(
    chat, store, config, limit
):
    few = dataclasses.replace(config, max_summaries=limit, max_calls=100, max_context_tokens=20_000)
    response = f"<think>So.</think>{tool_call_text([('Summary_context', {'span': '1'})] * 40)}"
    trajectory, requests = play(
        chat, store, few, response, *["Talk."] * limit, response, *["Talk."] * limit,
        NOTED, answer("Oslo"),
    )  # fmt: skip
    assert [r.purpose for r in requests].count("summary") == 2 * limit
    by_response = [event.ok for event in tools(trajectory)]
    assert by_response == ([True] * limit + [False] * (40 - limit)) * 2
    written = "summary is" if limit == 1 else "summaries are"
    assert tools(trajectory)[-1].error == f"Only {limit} {written} written for one reply."


def test_messages_that_stage_1_leaves_out_are_recorded_and_said_once_for_a_source(
    chat, model, engine_config, store, config, caplog
):
    few = dataclasses.replace(config, max_messages=1)
    other = dataclasses.replace(TASK, data_set="hotpotqa")
    player = Player(model, chat, engine_config, store.embedder, 8)
    with caplog.at_level(logging.WARNING, logger="absl"):
        for task in (TASK, TASK, other):
            rollouts = [Rollout(task, jax.random.key(0))] * 2
            played = run_episodes(rollouts, player.rules(few), store, Answering(chat, 2))
            for trajectory in played:
                assert trajectory.events[0] == DroppedMessagesEvent(stage=1, step=0, dropped=1)
                assert trajectory.dropped_messages == 1
    said = [r.getMessage() for r in caplog.records if "episode.max_messages is 1" in r.getMessage()]
    assert [("multihop" in text, "hotpotqa" in text) for text in said] == [
        (True, False), (False, True),
    ]  # fmt: skip
    (whole,) = run_episodes(rollouts[:1], player.rules(config), store, Answering(chat, 1))
    assert whole.dropped_messages == 0


@pytest.mark.parametrize("name", ["max_calls", "max_summaries"])
def test_a_bound_below_one_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"episode.{name} is 0; it must be at least 1"):
        EpisodeConfig(**{name: 0})
    with pytest.raises(ValueError, match="episode.auto_retrieve is -1; it must be 0"):
        EpisodeConfig(auto_retrieve=-1)


odd_text = st.sampled_from(
    ["", " ", "\x00", "\ud800", "a\nb", "³", "١", "mem_", "mem_00000000", "mem_0000000g", "all",
     "0", "1", "-1", "99999999999", "\\", '"', "</tool_call>", "<|im_end|>", "😀", "Ana",
     "timestamp", "source", "x" * 2000]
) | st.text(st.characters(codec=None), max_size=5)  # fmt: skip
odd_value = st.recursive(
    odd_text | st.booleans() | st.none() | st.sampled_from([0, 1, -1, 3, 11, 2.5, 1e300, 10**17]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(odd_text, inner, max_size=2)
    ),
    max_leaves=4,
)  # fmt: skip


@st.composite
def odd_calls(draw):
    """A call of a tool in which some arguments are as they should be."""
    tool = draw(st.sampled_from(tool_table().specs))
    arguments = dict(tool.example)
    for parameter in tool.parameters:
        if draw(st.booleans()):
            arguments[parameter.name] = draw(odd_value)
    return tool.name, arguments


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(odd_calls(), min_size=1, max_size=6), min_size=8, max_size=8))
def test_whatever_a_policy_puts_into_its_calls_the_episode_goes_on(chat, store, calls):
    config = EpisodeConfig(
        max_context_tokens=100_000, max_rounds=2, rounds_per_message=2, prompt_style="compact",
        retrieve_each_step=True, max_summaries=6,
    )  # fmt: skip
    responses = iter(calls)

    def respond(request):
        if request.purpose == "summary":
            return "Talk."
        return f"<think>So.</think>{_as_json(next(responses))}"

    trajectory, _ = play(chat, store, config, *[respond] * 60)
    assert trajectory.fault is None
    assert trajectory.memory == store.contents(0)
    assert all(event.ok or event.error for event in trajectory.events if type(event) is ToolEvent)


def _as_json(calls):
    """With lone surrogates escaped, as tokens cannot hold them."""
    return tool_call_text(calls).encode("utf-8", "backslashreplace").decode()
