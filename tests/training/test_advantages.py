"""Group advantages against the formula in plain Python floats."""

import math

import numpy as np
import pytest

from agemem_jax.training.advantages import group_advantages, zero_variance

REWARDS = np.array([[0.0, 1.0, 0.5, 0.25], [1.0, 1.0, 1.0, -1.0]])


def by_formula(rewards, eps, normalise_std=True):
    result = []
    for group in rewards.tolist():
        mean = sum(group) / len(group)
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1))
        scale = std + eps if normalise_std else 1.0
        result.append([(r - mean) / scale for r in group])
    return np.array(result)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("normalise_std", [True, False])
def test_advantages_follow_the_formula_with_the_sample_standard_deviation(eps, normalise_std):
    actual = group_advantages(REWARDS, eps, normalise_std=normalise_std)
    np.testing.assert_allclose(actual, by_formula(REWARDS, eps, normalise_std), rtol=1e-6)


@pytest.mark.parametrize("normalise_std", [True, False])
def test_a_baseline_of_the_others_leaves_each_rollout_out_of_its_own(normalise_std):
    expected = []
    for group in REWARDS.tolist():
        mean = sum(group) / len(group)
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1))
        others = [(sum(group) - r) / (len(group) - 1) for r in group]
        scale = std + 1e-6 if normalise_std else 1.0
        expected.append([(r - other) / scale for r, other in zip(group, others, strict=True)])
    actual = group_advantages(REWARDS, normalise_std=normalise_std, baseline="leave_one_out")
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    counted = np.array([[1, 1, 0, 1], [1, 1, 1, 1]], bool)
    some = group_advantages(REWARDS, baseline="leave_one_out", counted=counted)
    of_three = group_advantages(REWARDS[:1, [0, 1, 3]], baseline="leave_one_out")
    np.testing.assert_array_equal(some[0, [0, 1, 3]], of_three[0])


def test_groups_do_not_influence_each_other():
    together = group_advantages(REWARDS)
    alone = group_advantages(REWARDS[1:])
    np.testing.assert_array_equal(together[1:], alone)


@pytest.mark.parametrize("normalise_std", [True, False])
def test_a_group_of_equal_rewards_has_exactly_zero_advantages(normalise_std):
    # The mean of three times 0.1 is not 0.1 in floating point.
    rewards = np.array([[0.1, 0.1, 0.1], [0.1, 0.1, 0.2]])
    advantages = group_advantages(rewards, normalise_std=normalise_std)
    assert (advantages[0] == 0.0).all()
    assert (advantages[1] != 0.0).all()
    np.testing.assert_array_equal(zero_variance(rewards), [True, False])


def test_a_single_rollout_per_task_is_refused():
    with pytest.raises(ValueError, match="at least two rollouts"):
        group_advantages(np.zeros((3, 1)))


def test_a_reward_that_is_not_finite_is_refused_with_its_place():
    rewards = np.zeros((2, 3))
    rewards[1, 2] = np.nan
    with pytest.raises(ValueError, match="rollout 2 in group 1 is nan"):
        group_advantages(rewards)


def test_a_rollout_that_failed_counts_neither_in_its_group_nor_in_others():
    rewards = np.array([[0.0, 1.0, 9.0, 0.5], [0.1, 0.2, 0.3, 0.4], [0.7, 0.0, 0.0, 0.0]])
    counted = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [1, 0, 0, 0]], bool)
    advantages = group_advantages(rewards, counted=counted)
    np.testing.assert_array_equal(
        advantages[0, [0, 1, 3]], group_advantages(rewards[:1, [0, 1, 3]])[0]
    )
    np.testing.assert_array_equal(advantages[1], group_advantages(rewards[1:2])[0])
    assert advantages[0, 2] == 0 and not advantages[2].any()
