"""Branches: an episode that replays another one's first steps goes on from where that one was."""

import dataclasses

import jax
import numpy as np
import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.replay import recorded_steps, without_replayed
from agemem_jax.tasks.multihop import MultihopConfig, MultihopSource
from agemem_jax.training.credit.steps import steps_of_stage_1
from tests.rollout.scripted import NOTED, TASK, Replies, answer, call, play
from tests.rollout.test_goals import GO, Corridor, corridor


@pytest.fixture(scope="module")
def played(model, chat, weights, engine_config, episode_config):
    """A rollout, one that replays half of it with its key, and one with another key."""
    task = MultihopSource("train", 4, config=MultihopConfig(max_messages=3))[0]
    player = Player(model, chat, engine_config, make_embedder("hashed_ngrams"), 8)
    rules, stats = player.rules(episode_config), player.engine.stats

    def run(key, replay=()):
        before = stats.sampled_tokens
        rollout = Rollout(task, jax.random.key(key), replay)
        (trajectory,) = player.play(weights, [rollout], rules, 1.0)
        return trajectory, stats.sampled_tokens - before

    parent, sampled = run(3)
    half = recorded_steps(parent)[: parent.num_steps // 2]
    return (parent, sampled), run(3, half), run(4, half)


def tokens(trajectory, steps=slice(None)):
    return [step.generated.token_ids for step in recorded_steps(trajectory)[steps]]


def test_a_branch_with_its_parents_key_is_its_parent(played):
    (parent, whole), (same, rest), _ = played
    assert same.transcript == parent.transcript and same.events == parent.events
    assert same.memory == parent.memory and same.prompt_tokens == parent.prompt_tokens
    for one, other in zip(same.segments, parent.segments, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_array_equal(one.step_index, other.step_index)
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)
    replayed = sum(map(len, tokens(parent, slice(parent.num_steps // 2))))
    assert rest == whole - replayed > 0, "what is replayed is not sampled"


def test_a_branch_with_another_key_goes_its_own_way_from_the_branch_on(played):
    (parent, _), _, (other, sampled) = played
    half = parent.num_steps // 2
    assert tokens(other, slice(half)) == tokens(parent, slice(half))
    assert recorded_steps(other)[half].prompt == recorded_steps(parent)[half].prompt
    assert tokens(other, slice(half, None)) != tokens(parent, slice(half, None))
    assert sampled == sum(map(len, tokens(other, slice(half, None))))


def test_nothing_of_what_was_replayed_is_trained_on(played):
    _, _, (branch, _) = played
    half = played[0][0].num_steps // 2
    own = without_replayed(branch, half)
    steps = np.concatenate([segment.step_index for segment in own.segments])
    assert sorted(set(steps[steps >= 0].tolist())) == list(range(half, branch.num_steps))
    for cut, segment in zip(own.segments, branch.segments, strict=True):
        np.testing.assert_array_equal(cut.token_ids, segment.token_ids)
        np.testing.assert_array_equal(cut.action_mask, segment.step_index >= half)
        np.testing.assert_array_equal(
            cut.log_probs != 0, cut.action_mask & (segment.log_probs != 0)
        )


def test_a_branch_behind_stage_1_has_its_parents_memory_with_the_same_ids(chat, store):
    config = EpisodeConfig(prompt_style="compact", max_rounds=2)
    parent, _ = play(
        chat, store, config, call("Add_memory", content="Ana lives in Oslo."), NOTED, NOTED,
        call("Retrieve_memory", query="Ana"), answer("Oslo"),
    )  # fmt: skip
    replay = recorded_steps(parent)[: steps_of_stage_1(parent)]
    assert len(replay) == 2
    backend = Replies(chat, NOTED, call("Retrieve_memory", query="Where?"), answer("Paris"))
    rollout = Rollout(TASK, jax.random.key(1), replay)
    (branch,) = run_episodes([rollout], EpisodeRules(config, chat), store, backend)
    assert [request.step for request in backend.requests] == [2, 3, 4]
    assert branch.memory == parent.memory and branch.memory
    assert branch.events[:3] == parent.events[:3]
    assert branch.outcome.answer == "Paris"


def test_environments_are_replayed_with_what_was_done_in_them(chat, store):
    config = EpisodeConfig(stages=(3,), max_context_tokens=900, prompt_style="compact")
    parent, _ = play(chat, store, config, GO, GO, GO, task=corridor())
    backend = Replies(chat, call("Act", action="look"), GO)
    replay = recorded_steps(parent)[:2]
    rollout = Rollout(corridor(), jax.random.key(1), replay)
    (branch,) = run_episodes([rollout], EpisodeRules(config, chat), store, backend)
    assert branch.outcome.score == 1.0 and branch.outcome.actions == 4


@dataclasses.dataclass
class Moody(Corridor):
    """A corridor whose rooms are painted whenever it is entered anew."""

    painted = 0

    def reset(self, seed):
        Moody.painted += 1
        seen = super().reset(seed)
        return dataclasses.replace(seen, text=f"{seen.text} Coat {Moody.painted}.")


def test_a_replay_that_comes_to_another_prompt_is_a_fault(chat, store):
    config = EpisodeConfig(stages=(3,), max_context_tokens=900, prompt_style="compact")
    task = corridor()
    task = dataclasses.replace(task, goal=dataclasses.replace(task.goal, environment=Moody))
    parent, _ = play(chat, store, config, GO, GO, GO, task=task)
    rollout = Rollout(task, jax.random.key(1), recorded_steps(parent)[:2])
    (branch,) = run_episodes([rollout], EpisodeRules(config, chat), store, Replies(chat))
    assert branch.fault.endswith("replayed, it came to another prompt at step 0")
