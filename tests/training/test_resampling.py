"""Which groups are played again and chosen, in one process and in several."""

import types

import jax
import numpy as np
import pytest

from agemem_jax.rollout.player import group_rollouts
from agemem_jax.training import resampling
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.monitoring.throughput import Stopwatch
from agemem_jax.training.resampling import have_variance, sample_groups

EQUAL, DIFFERENT, FAILED = (1.0, 1.0), (0.0, 1.0), (None, 1.0)


def trajectories(groups, name=""):
    return [
        types.SimpleNamespace(
            reward=reward, name=f"{name}{index}", fault="It broke." if reward is None else None
        )
        for index, rewards in enumerate(groups)
        for reward in rewards
    ]


def reward(intact):
    return [types.SimpleNamespace(total=each.reward) for each in intact]


def sampled(rounds, wanted, **options):
    """`sample_groups` on rounds of groups; also how many rounds were played."""
    played = []

    def play(number):
        played.append(number)
        return trajectories(rounds[number], f"{number}-")

    grpo = GRPOConfig(group_size=2, **options)
    return sample_groups(play, reward, grpo, wanted, Stopwatch()), played


def names(groups):
    return list(dict.fromkeys(each.name for each in groups.to_train_on[0]))


def test_without_resampling_one_round_is_played_and_everything_is_trained_on():
    groups, played = sampled([[EQUAL, DIFFERENT]], 2)
    assert played == [0] and names(groups) == ["0-0", "0-1"]
    assert groups.counts == {"groups_sampled": 2, "groups_zero_variance": 1, "groups_dropped": 0}


def test_rounds_go_on_until_there_are_enough_groups_with_variance_and_the_surplus_is_dropped():
    rounds = [[EQUAL, DIFFERENT], [EQUAL, EQUAL], [DIFFERENT, DIFFERENT], [DIFFERENT, DIFFERENT]]
    groups, played = sampled(rounds, 2, max_resample_rounds=5)
    assert played == [0, 1, 2] and names(groups) == ["0-1", "2-0"]
    assert groups.counts == {"groups_sampled": 6, "groups_zero_variance": 3, "groups_dropped": 4}
    kept, rewards = groups.to_train_on
    assert [each.total for each in rewards] == [each.reward for each in kept] == [0, 1, 0, 1]
    assert len(groups.intact) == len(groups.rewards) == 12  # metrics are of all


def test_enough_at_once_are_enough():
    groups, played = sampled([[DIFFERENT, DIFFERENT]], 2, max_resample_rounds=5)
    assert played == [0] and names(groups) == ["0-0", "0-1"]


def test_where_the_rounds_run_out_what_there_is_is_trained_on():
    groups, played = sampled([[EQUAL, EQUAL], [EQUAL, DIFFERENT]], 2, max_resample_rounds=1)
    assert played == [0, 1] and names(groups) == ["1-1"]
    groups, _ = sampled([[EQUAL, EQUAL], [EQUAL, EQUAL]], 2, max_resample_rounds=1)
    assert groups.to_train_on == ([], [])


def test_failed_episodes_have_no_reward_and_are_told_of_wherever_they_are():
    groups, _ = sampled([[FAILED, DIFFERENT], [FAILED, DIFFERENT]], 2, max_resample_rounds=1)
    assert names(groups) == ["0-1", "1-1"]
    assert groups.left_out_faults == ["It broke."] * 2
    kept, rewards = groups.to_train_on
    assert [each.total for each in rewards] == [each.reward for each in kept]
    three = trajectories([(None, 0.0, 1.0), (None, 1.0, 1.0), (None, None, 0.0)])
    intact = [each for each in three if each.fault is None]
    assert have_variance(three, reward(intact), 3).tolist() == [True, False, False]


def test_equal_numbers_have_no_variance_whatever_rounding_makes_of_their_mean():
    assert not have_variance(trajectories([(0.1, 0.1)]), reward(trajectories([(0.1, 0.1)])), 2)[0]


@pytest.mark.parametrize("rounds", [0, 3])
def test_processes_that_share_the_tasks_choose_as_one_would(monkeypatch, rounds):
    """Task number i of a round is played by process i % 2; what each knows of the other is
    what `gather` tells."""
    rng = np.random.default_rng(0)
    every = [[[EQUAL, DIFFERENT][int(x)] for x in rng.random(4) < 0.3] for _ in range(4)]
    alone, expected_rounds = sampled(every, 4, max_resample_rounds=rounds)
    expected, chosen = names(alone), []
    for index in range(2):
        calls = iter(range(len(every)))

        def gather(own, index=index, calls=calls):
            number = next(calls)
            parts = []
            for process in range(2):
                shared = trajectories(every[number][process::2])
                parts.append(have_variance(shared, reward(shared), 2).tolist())
            assert parts[index] == own
            return parts

        monkeypatch.setattr(resampling.processes, "gather", gather)
        monkeypatch.setattr(resampling.jax, "process_count", lambda: 2)
        monkeypatch.setattr(resampling.jax, "process_index", lambda index=index: index)
        own, played = sampled([each[index::2] for each in every], 4, max_resample_rounds=rounds)
        assert played == expected_rounds and own.counts == alone.counts
        for name in names(own):
            number, place = map(int, name.split("-"))
            chosen.append(f"{number}-{2 * place + index}")
    assert sorted(chosen) == sorted(expected)
    assert len(expected) == 4


def test_tasks_of_later_rounds_are_drawn_with_keys_of_their_own():
    key = jax.random.key(0)
    longer = group_rollouts(list("abcd"), 2, key)
    second = group_rollouts(list("cd"), 2, key, first=2)
    for one, other in zip(longer[4:], second, strict=True):
        assert one.task == other.task
        np.testing.assert_array_equal(jax.random.key_data(one.key), jax.random.key_data(other.key))
    (shared,) = group_rollouts(["d"], 2, key, shard_index=1, shard_count=2, first=2)[:1]
    np.testing.assert_array_equal(
        jax.random.key_data(shared.key), jax.random.key_data(longer[6].key)
    )
