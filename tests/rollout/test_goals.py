"""Stage 3 in an environment: actions and context edits in one protocol, and how it ends."""

import dataclasses

import jax
import pytest

from agemem_jax.environments.pool import EnvironmentConfig, EnvironmentPool
from agemem_jax.environments.protocol import Observation, Outcome
from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.protocol.events import OverflowEvent, RoundLimitEvent
from agemem_jax.protocol.messages import Kind
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.tasks.task import EnvironmentGoal, Question, Task
from tests.rollout.scripted import NOTED, TASK, Replies, answer, call, play, tools


@dataclasses.dataclass
class Corridor:
    """Rooms in a row; at the end of them is the goal. Every room is described at length."""

    rooms: int = 3

    def reset(self, seed):
        self.place = 0
        return Observation("Room 0 has grey walls and no door.", "Reach the last room.")

    def step(self, action):
        if action != "go on":
            return Outcome("Nothing happens.", self.place / self.rooms, valid=False)
        self.place += 1
        text = f"Room {self.place} has grey walls and no door."
        won = self.place == self.rooms
        return Outcome(text, self.place / self.rooms, done=won, won=won)


def corridor(max_steps=30, **options):
    goal = EnvironmentGoal(Corridor, options, "You walk.", max_steps=max_steps)
    return Task(
        "c", goal, ("The goal is behind the third room.",), ("It rains.",), category="corridor"
    )


@pytest.fixture
def store():
    return MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=1, entries=4)


@pytest.fixture
def config():
    return EpisodeConfig(max_context_tokens=900, max_rounds=2, prompt_style="compact")


GO = call("Act", action="go on")


def test_experience_is_stored_and_helps_in_an_environment_that_comes_later(chat, store, config):
    played, requests = play(
        chat, store, config,
        call("Add_memory", content="The goal is behind the third room."), NOTED,
        call("Retrieve_memory", query="goal"), GO, call("Act", action="dance"), GO, GO,
        task=corridor(),
    )  # fmt: skip
    said = [request.context.messages[-1].text for request in requests]
    assert "Room 0 has grey walls and no door." in said[2]
    assert "The goal is behind the third room." in said[3], "the memory outlived its conversation"
    assert said[4:] == ["Room 1 has grey walls and no door.", "Nothing happens.",
                        "Room 2 has grey walls and no door."]  # fmt: skip
    outcome = played.outcome
    assert (outcome.score, outcome.progress, outcome.actions) == (1.0, 1.0, 4)
    assert outcome.valid_actions == 3
    assert not any(isinstance(event, RoundLimitEvent) for event in played.events)
    assert outcome.context_tokens == requests[-1].context.num_tokens + len(chat.generation_prompt)


def test_the_goal_stays_in_sight_whatever_is_removed(chat, store, config):
    lenient = dataclasses.replace(config, stages=(3,), filter_threshold=0.4, max_rounds=3)
    _, requests = play(
        chat, store, lenient, GO, GO,
        call("Filter_context", criteria="Room has grey walls and no door"),
        call("Summary_context", span="all"), "Two rooms were passed.", GO, task=corridor(),
    )  # fmt: skip
    filtered, last = requests[3].context, requests[-1].context
    seen = (Kind.OBSERVATION, Kind.TOOL_RESULT)
    assert not any("grey walls" in m.text for m in filtered.messages if m.kind in seen)
    assert [m.text for m in last.messages if m.kind is Kind.QUERY] == [
        "Goal: You walk.\nReach the last room."
    ]
    assert any("Two rooms were passed." in m.text for m in last.messages)


def test_calls_and_actions_of_one_reply_are_run_in_order_until_the_end(chat, store, config):
    reply = "<think>So.</think><tool_call>" + str([
        {"name": "Add_memory", "arguments": {"content": "It is near."}},
        *[{"name": "Act", "arguments": {"action": "go on"}}] * 3,
    ]).replace("'", '"') + "</tool_call>"  # fmt: skip
    played, _ = play(
        chat, store, dataclasses.replace(config, stages=(3,)), reply, task=corridor(rooms=2)
    )
    assert [(event.name, event.ok) for event in tools(played)] == [
        ("Add_memory", True), ("Act", True), ("Act", True), ("Act", False),
    ]  # fmt: skip
    assert tools(played)[-1].error == "It has ended."
    assert played.outcome.actions == 2


def test_an_environment_has_seen_enough_after_its_limit_of_actions(chat, store, config):
    config = dataclasses.replace(config, stages=(3,))
    played, _ = play(chat, store, config, GO, GO, task=corridor(max_steps=2))
    assert (played.outcome.score, round(played.outcome.progress, 3)) == (0.0, 0.667)
    assert isinstance(played.events[-2], RoundLimitEvent) and played.events[-2].rounds == 2


def test_replies_without_an_action_are_limited_by_the_rounds(chat, store, config):
    config = dataclasses.replace(config, stages=(3,))
    look = call("Retrieve_memory", query="goal")
    played, _ = play(chat, store, config, look, GO, look, answer("done"), task=corridor())
    assert played.outcome.actions == 1 and played.outcome.score == 0.0


def test_what_was_reached_before_the_context_overflowed_counts(chat, store, config):
    config = dataclasses.replace(config, stages=(3,), max_context_tokens=420)
    played, _ = play(chat, store, config, *[GO] * 20, task=corridor(rooms=100))
    assert any(isinstance(event, OverflowEvent) for event in played.events)
    assert played.outcome.score == 0.0 and played.outcome.progress == played.outcome.actions / 100


def test_acting_before_the_goal_is_given_does_nothing(chat, store, config):
    played, _ = play(chat, store, config, GO, answer("Fine."), GO, GO, GO, task=corridor())
    assert tools(played)[0].error == "There is nothing to act in yet."
    assert played.outcome.score == 1.0 and played.outcome.actions == 3


class Fails:
    def reset(self, seed):
        return "Go."

    def step(self, action):
        raise RuntimeError("out of paint")


def test_an_environment_that_fails_ends_its_own_episode_by_name(chat, store, config):
    config = dataclasses.replace(config, stages=(3,))
    backend = Replies(chat, GO, answer("Oslo"))
    rollouts = [
        Rollout(Task("broken", EnvironmentGoal(Fails)), jax.random.key(0)),
        Rollout(TASK, jax.random.key(0)),
    ]
    rules = EpisodeRules(config, chat, [Question("", ""), rollouts[0].task.goal])
    pool = EnvironmentPool(EnvironmentConfig(workers=1))
    broken, fine = run_episodes(rollouts, rules, store, backend, pool)
    assert broken.fault == (
        "An episode of task broken failed: The environment Fails: it failed with RuntimeError: "
        "out of paint"
    )
    assert fine.fault is None and fine.outcome.answer == "Oslo"


def test_prompts_of_both_goals_begin_with_what_they_share(chat, config):
    both = EpisodeRules(config, chat, [Question("", ""), corridor().goal])
    alone = EpisodeRules(config, chat)
    shared = both.shared_prefix
    assert 0 < len(shared) < len(alone.shared_prefix)
    assert alone.shared_prefix[: len(shared)] == shared
    acting = both.system(both.tools(corridor().goal)).token_ids
    assert acting[: len(shared)] == shared


def test_what_an_environment_answers_is_given_and_what_a_memory_answers_is_not(chat, store, config):
    played, requests = play(
        chat, store, config,
        call("Add_memory", content="The goal is behind the third room."), NOTED,
        call("Retrieve_memory", query="goal"), GO, GO, GO,
        task=corridor(),
    )  # fmt: skip
    (last,) = [request for request in requests if request.step == played.outcome.step]
    messages = last.context.messages
    given = [m for m in messages if m.kind is not Kind.RESPONSE and "Memories:" not in m.text]
    assert [m.text for m in given][-2:] == [
        "Room 1 has grey walls and no door.", "Room 2 has grey walls and no door.",
    ]  # fmt: skip
    length = sum(len(m.token_ids) for m in given) + len(chat.generation_prompt)
    assert played.outcome.given_tokens == length < played.outcome.context_tokens
