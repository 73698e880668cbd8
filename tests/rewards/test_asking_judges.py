"""What a judge is asked for rewards and memory quality: once, together, and in good time."""

import dataclasses

from agemem_jax.rewards import memory_reward
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.total import RewardConfig, ask_ahead, compute_rewards
from agemem_jax.rollout.trajectory import Trajectory
from tests.rewards.builders import (
    NOISE,
    STALE,
    TASK,
    WORKS,
    add,
    answer,
    retrieve,
    trajectory,
)
from tests.rewards.judges import ListeningJudge, TableJudge


def test_the_judge_is_asked_once_per_kind_for_a_whole_batch():
    class Counting(TableJudge):
        asked = ()

        def score_storage(self, items):
            self.asked += (len(items),)
            return super().score_storage(items)

    judge = Counting()
    batch = [trajectory(add("a", WORKS)), trajectory(), trajectory(add("a", NOISE), add("b", ""))]
    assert len(compute_rewards(batch, RewardConfig(), judge)) == 3
    assert judge.asked == (3,)


def test_memory_quality_is_the_judges_and_an_empty_memory_is_not_asked_about():
    asked = []

    class Harsh(OfflineJudge):
        def score_memories(self, items):
            asked.extend(items)
            return [0.25] * len(items)

    played = [
        trajectory(),
        trajectory(),
        trajectory(task=dataclasses.replace(TASK, supporting_facts=())),
    ]
    played[1].memory.update(a=WORKS, b=NOISE)
    played[2].memory.update(a=WORKS)
    assert memory_reward.memory_qualities(played, Harsh()) == [0.0, 0.25, 0.0]
    assert [item.entries for item in asked] == [(WORKS, NOISE)]
    for each, quality in zip(
        played, memory_reward.memory_qualities(played, OfflineJudge()), strict=True
    ):
        task = each.task
        assert quality == memory_reward.memory_quality(
            each.memory, task.supporting_facts, task.stale_facts
        )


def test_what_is_told_when_an_episode_ends_is_what_is_asked_later():
    trajectories = [
        trajectory(add("m1", WORKS), add("m2", STALE), retrieve(WORKS), answer()), trajectory(),
    ]  # fmt: skip
    judge = ListeningJudge()
    for each in trajectories:
        ask_ahead(0, each, config=RewardConfig(), judge=judge)
    failed = Trajectory.failed(TASK, "an environment crashed")
    ask_ahead(0, failed, config=RewardConfig(), judge=judge)
    compute_rewards(trajectories, RewardConfig(), judge)
    assert len(judge.told) == 4
    assert sorted(map(repr, judge.told)) == sorted(map(repr, judge.asked))
