"""The soft penalty on long responses against DAPO's formula, and how a run gives it a limit."""

import numpy as np
import pytest

from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.overlong import Overlong
from agemem_jax.rewards.total import RewardConfig, compute_rewards
from agemem_jax.rollout.trajectory import Segment
from agemem_jax.training.configuration import doors, run_config
from tests.rewards.builders import trajectory


def played(*segments):
    """A trajectory of segments, each given as the lengths of its responses."""
    result, step = trajectory(), 0
    for lengths in segments:
        mask = np.concatenate([[False, *[True] * n] for n in lengths] or [np.zeros(3, bool)])
        index = np.concatenate(
            [[-1, *[step + i] * n] for i, n in enumerate(lengths)] or [np.full(3, -1)]
        )
        step += len(lengths)
        zeros = np.zeros(len(mask))
        result.segments.append(Segment(zeros.astype(int), mask, index, zeros))
    return result


def by_formula(lengths, limit, buffer):
    """Equation 13 of the paper, response by response."""
    values = []
    for n in lengths:
        if n <= limit - buffer:
            values.append(0.0)
        elif n <= limit:
            values.append(((limit - buffer) - n) / buffer)
        else:
            values.append(-1.0)
    return sum(values) / len(values)


@pytest.mark.parametrize("segments", [[[60]], [[61]], [[80, 3], [100]], [[70, 90], [], [101, 1]]])
def test_the_penalty_is_the_mean_of_the_formula_over_responses(segments):
    value = Overlong(buffer=40, limit=100)(played(*segments), OfflineJudge())
    lengths = [n for segment in segments for n in segment]
    assert value == pytest.approx(by_formula(lengths, 100, 40))
    assert -1.0 <= value <= 0.0


def test_an_episode_without_a_response_is_not_punished():
    assert Overlong(buffer=40, limit=100)(played([]), OfflineJudge()) == 0.0


def test_a_run_that_adds_it_has_its_limit_from_the_episode_and_its_value_in_the_reward():
    config = run_config.default_config()
    config.episode.max_response_tokens = 100
    doors.add_reward(config, "overlong", "overlong", weight=0.5, buffer=40)
    rewards = run_config.build(config).rewards
    assert rewards.components["overlong"].options == {"buffer": 40, "limit": 100}
    (reward,) = compute_rewards([played([80, 10])], rewards, OfflineJudge())
    assert reward.values["overlong"] == pytest.approx(-0.25)
    (without,) = compute_rewards([played([80, 10])], RewardConfig(), OfflineJudge())
    assert reward.total == pytest.approx(without.total - 0.125)


def test_it_is_not_part_of_the_reward_unasked():
    assert "overlong" not in RewardConfig().components


@pytest.mark.parametrize(
    "options, told",
    [
        ({"buffer": 0}, "buffer is 0; it must be at least 1"),
        ({"buffer": 100}, "buffer is 100; it must be below the limit of a response, which is 100"),
        ({"buffer": 9, "limit": 5}, "buffer is 9; it must be below the limit"),
    ],
)
def test_a_wrong_buffer_is_refused_by_its_name(options, told):
    config = run_config.default_config()
    config.episode.max_response_tokens = 100
    with pytest.raises(ValueError, match="overlong") as error:
        doors.add_reward(config, "overlong", "overlong", **options)
        run_config.build(config)
    assert f"rewards.components.overlong.options.{told}" in str(error.value)


def test_alone_it_asks_for_a_limit():
    with pytest.raises(ValueError, match="give one"):
        Overlong()(played([3]), OfflineJudge())
