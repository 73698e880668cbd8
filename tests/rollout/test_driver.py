import dataclasses

import jax
import numpy as np
import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player, group_rollouts
from agemem_jax.tasks.multihop import MultihopConfig, MultihopSource
from agemem_jax.training import packing, update
from tests.rollout.scripted import TASK, Replies, answer


@pytest.fixture(scope="module")
def played(model, chat, weights, engine_config, episode_config):
    source = MultihopSource("train", 4, config=MultihopConfig(max_messages=3))
    rollouts = group_rollouts([source[0], source[1]], 3, jax.random.key(3))

    def play(slots):
        engine = dataclasses.replace(engine_config, slots=slots)
        player = Player(model, chat, engine, make_embedder("hashed_ngrams"), 8)
        return player.play(weights, rollouts, player.rules(episode_config), 1.0)

    return play(4), play(2)


def test_trajectories_do_not_depend_on_the_number_of_slots(played):
    for one, other in zip(*played, strict=True):
        assert one.transcript == other.transcript
        assert one.events == other.events


def test_greedy_trajectories_are_the_same_with_all_optimisations_and_with_none(
    model, chat, weights, engine_config, episode_config
):
    source = MultihopSource("train", 4, config=MultihopConfig(max_messages=3))
    rollouts = group_rollouts([source[0], source[1]], 3, jax.random.key(3))
    everything = dataclasses.replace(
        engine_config, attend_buckets=(256,), decode_rows=(1, 2), idle_slots=1, overlap=True,
        weights="stacked",
    )  # fmt: skip
    nothing = dataclasses.replace(
        engine_config, slots=1, prefill_rows=1, prefill_buckets=(640,), idle_slots=1
    )
    outcomes = []
    for engine, reuse in ((everything, True), (nothing, False)):
        player = Player(model, chat, engine, make_embedder("hashed_ngrams"), 8)
        if not reuse:  # every prompt from its start, and no prefix that all share
            submit = player.engine.submit
            player.engine.submit = lambda request, p=player, go=submit: (
                p.engine._held.forget(), go(request)
            )  # fmt: skip
            load = player.engine.load
            player.engine.load = lambda weights, prefix, go=load: go(weights)
        played = player.play(weights, rollouts, player.rules(episode_config), 0.0)
        stats = player.engine.stats
        outcomes.append((played, stats.prefilled_tokens / stats.prompt_tokens))
    (with_all, share), (with_none, whole) = outcomes
    assert share < 0.5 and whole > 0.95
    for one, other in zip(with_all, with_none, strict=True):
        assert one.transcript == other.transcript
        assert one.events == other.events
        for segments in zip(one.segments, other.segments, strict=True):
            np.testing.assert_array_equal(*(s.token_ids for s in segments))
            np.testing.assert_allclose(*(s.log_probs for s in segments), atol=1e-4)
    # And an update reads the same, shared beginnings packed once or every segment apart.
    prefix = player.rules(episode_config).shared_prefix
    for trajectories, share in ((with_all, True), (with_none, False)):
        config = packing.PackingConfig(row_lengths=(640,), rows=2, max_microbatches=16, share=share)
        batch = packing.pack(trajectories, np.zeros(6), config, prefix=prefix if share else ())
        scores = update.make_score(model)(weights, batch)
        np.testing.assert_allclose(
            np.where(batch.target_mask, scores, 0), batch.old_log_probs, atol=1e-4
        )


def test_rollouts_of_a_task_differ(played):
    texts = [[entry.text for entry in t.transcript] for t in played[0][:3]]
    assert texts[0] != texts[1] != texts[2]


def test_sampled_log_probs_equal_those_of_the_training_pass(played, model, weights, chat):
    trajectories = played[0]
    assert any(len(t.segments) > 1 for t in trajectories), "the reset must be among them"
    config = packing.PackingConfig(row_lengths=(640,), rows=2, max_microbatches=8)
    prefix = trajectories[0].segments[0].token_ids[:64]
    for shared in ((), prefix):
        batch = packing.pack(trajectories, np.zeros(6), config, prefix=shared)
        scores = update.make_score(model)(weights, batch)
        np.testing.assert_allclose(
            np.where(batch.target_mask, scores, 0), batch.old_log_probs, atol=1e-4
        )


def test_a_trajectory_is_handed_out_when_its_episode_ends(chat, store):
    backend = Replies(chat, *map(answer, "abc"))
    rules = EpisodeRules(EpisodeConfig(stages=(3,), prompt_style="compact"), chat)
    ended = []

    def note(index, trajectory):
        ended.append((index, trajectory, len(backend.requests)))

    rollouts = [Rollout(TASK, jax.random.key(0))] * 3
    played = run_episodes(rollouts, rules, store, backend, on_end=note)
    assert [(index, trajectory) for index, trajectory, _ in ended] == list(enumerate(played))
    assert [requests for *_, requests in ended] == [1, 2, 3]  # one slot: one after the other


def test_what_an_episode_costs_is_what_it_asked_of_the_backend(chat, store):
    backend = Replies(chat, *map(answer, ("a", "Oslo it is", "c")))
    rules = EpisodeRules(EpisodeConfig(stages=(2, 3), prompt_style="compact"), chat)
    rollouts = [Rollout(TASK, jax.random.key(0))]
    (played,) = run_episodes(rollouts, rules, store, backend)
    cost = played.cost
    assert cost.calls == len(backend.requests) == 2
    assert cost.prompt_tokens == sum(len(request.prompt) for request in backend.requests)
    assert cost.prompt_tokens == sum(played.prompt_tokens)
    said = [chat.encode(answer(text)) for text in ("a", "Oslo it is")]
    assert cost.sampled_tokens == sum(len(ids) + 1 for ids in said)
    assert cost.seconds > 0


def test_the_time_of_the_machine_is_shared_by_the_episodes_that_are_under_way(
    chat, store, monkeypatch
):
    clock = iter(range(1000))
    monkeypatch.setattr("agemem_jax.rollout.driver.time.monotonic", lambda: float(next(clock)))
    rules = EpisodeRules(EpisodeConfig(stages=(3,), prompt_style="compact"), chat)
    rollouts = [Rollout(TASK, jax.random.key(0))] * 3
    played = run_episodes(rollouts, rules, store, Replies(chat, *map(answer, "abc")))
    seconds = [trajectory.cost.seconds for trajectory in played]
    assert all(each > 0 for each in seconds) and sum(seconds) <= next(clock)
