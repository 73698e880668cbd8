"""Credit: rules are asked, branches played and rewarded, and what rules give is checked."""

import dataclasses

import jax
import numpy as np
import pytest

from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.training import credit_assignment
from agemem_jax.training.advantages import group_advantages
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.credit.rule import Branches, Credit, Span
from agemem_jax.training.credit_assignment import CreditAssignment
from agemem_jax.training.faults import FaultConfig, Faults, TrainingFault
from agemem_jax.training.monitoring.throughput import Stopwatch
from tests.rewards.builders import TASK
from tests.training.credit.builders import decode, trajectory

STEPS = ((1, 1, "store"), (2, 2, "noted"), (3, 3, "answer"))
REWARDS = {"a": 0.9, "b": 0.2, "c": 0.2, "d": 0.4, "e": 0.7}


def told(name, steps=STEPS):
    """An episode whose last response is its name, by which it is rewarded."""
    return trajectory(*steps[:-1], (*steps[-1][:2], name))


def reward(trajectories):
    totals = [REWARDS[each.transcript[-2].text] for each in trajectories]
    return [Reward(total, {"task": total}, {}) for total in totals]


def failed():
    return Trajectory.failed(TASK, "it broke")


class Credit5:
    """Gives 5 to all members; has the first rollout of each group branched."""

    def score_episode(self, episode, judge):
        return Branches(1, 2) if episode.place == 0 else None

    def score_group(self, group):
        group.counts["members"] += len(group.members)
        return [np.full(each.num_steps, 5.0) for each in group.members]


def give(played, rule="broadcast", play=None, faults=None, key=0, **options):
    config = GRPOConfig(group_size=3, credit=rule, **options)
    intact = [each for each in played if each.fault is None]
    return CreditAssignment(config, OfflineJudge(), decode, Faults(faults or FaultConfig())).credit(
        played, reward(intact), jax.random.key(key), play, reward, Stopwatch()
    )


def test_broadcast_gives_what_advantages_of_whole_trajectories_were():
    played = [told("a"), told("b"), told("d"), told("b"), failed(), told("e")]
    chosen = give(played)
    assert chosen.trajectories == [each for each in played if each.fault is None]
    totals = np.array([[0.9, 0.2, 0.4], [0.2, 0.0, 0.7]])
    counted = np.array([[True] * 3, [True, False, True]])
    wanted = group_advantages(totals, counted=counted)[counted]
    for credit, value in zip(chosen.advantages, wanted, strict=True):
        assert credit.steps.tobytes() == np.full(3, value, np.float32).tobytes()
    assert chosen.counts == {}


def test_groups_without_a_difference_or_with_one_episode_teach_nothing_and_can_be_dropped():
    played = [told("b"), told("c"), told("b"), failed(), told("a"), failed(), failed(), failed(),
              failed(), told("a"), told("b"), told("c")]  # fmt: skip
    kept = give(played, faults=FaultConfig(max_failed_episodes=6))
    assert [bool(credit) for credit in kept.advantages] == [False] * 4 + [True] * 3
    dropped = give(played, drop_zero_variance=True)
    assert dropped.dropped == 2 and give(played).dropped == 0
    assert dropped.trajectories == played[-3:]


def test_a_group_with_a_difference_within_an_episode_is_not_dropped():
    class OfTokens(Credit5):
        def score_episode(self, episode, judge):
            return None

        def score_group(self, group):
            zeros = [Credit(np.zeros(3)) for _ in group.episodes[1:]]
            return [Credit(np.zeros(3), [Span(0, 0, 2, 1.0)]), *zeros]

    played = [told("b"), told("c"), told("b")]
    kept = give(played, OfTokens, drop_zero_variance=True)
    assert len(kept.trajectories) == 3 and kept.dropped == 0


@pytest.fixture
def branched():
    """Two groups in which the first episodes are branched, and what was played for it."""
    asked = []

    def play(rollouts):
        asked.extend(rollouts)
        longer = (*STEPS[:2], (3, 4, "once more"), STEPS[2])
        return [told("d"), told("e", longer), failed(), told("b")]

    played = [told("a"), told("b"), failed(), told("d"), told("e"), told("c")]
    return played, asked, give(played, Credit5, play)


def test_branches_are_played_from_the_steps_of_their_parent(branched):
    played, asked, _ = branched
    assert [len(rollout.replay) for rollout in asked] == [1] * 4
    (step,) = asked[2].replay
    assert decode(step.generated.token_ids) == "store"
    assert step.prompt == tuple(played[3].segments[0].token_ids[:2].tolist())
    keys = {jax.random.key_data(rollout.key).tobytes() for rollout in asked}
    assert len(keys) == 4, "no two continuations are sampled with the same key"


def test_branches_train_what_they_sampled_and_failed_ones_nothing(branched):
    played, _, chosen = branched
    names = [each.transcript[-2].text for each in chosen.trajectories]
    assert names == ["a", "b", "d", "e", "d", "e", "c", "b"]
    trained = [
        sorted({int(s) for each in t.segments for s in each.step_index[each.action_mask]})
        for t in chosen.trajectories
    ]
    assert trained == [[0, 1, 2]] * 2 + [[1, 2], [1, 2, 3]] + [[0, 1, 2]] * 3 + [[1, 2]]
    assert chosen.counts == {
        "credit/branches": 3, "credit/branch_steps": 7, "credit/members": 8,
    }  # fmt: skip
    assert played[0].segments[0].action_mask.any(), "the parents are as they were"


def test_branches_are_those_of_the_iteration_and_of_no_other():
    def keys(seed):
        asked = []
        play = lambda rollouts: asked.extend(rollouts) or [told("d")] * len(rollouts)  # noqa: E731
        give([told("a"), told("b"), told("c")], Credit5, play, key=seed)
        return [jax.random.key_data(rollout.key).tolist() for rollout in asked]

    assert keys(0) == keys(0) and not any(key in keys(1) for key in keys(0))


def test_processes_play_the_branches_that_one_would(monkeypatch):
    def keys(played):
        asked = []
        play = lambda rollouts: asked.extend(rollouts) or [told("d")] * len(rollouts)  # noqa: E731
        give(played, Credit5, play)
        return [jax.random.key_data(rollout.key).tolist() for rollout in asked]

    one = [told("a"), told("b"), told("c")]
    alone = keys(one * 4)
    monkeypatch.setattr(credit_assignment.jax, "process_count", lambda: 2)
    shares = []
    for process in range(2):
        monkeypatch.setattr(credit_assignment.jax, "process_index", lambda p=process: p)
        monkeypatch.setattr(credit_assignment.processes, "gather", lambda value: [value])
        shares.append(keys(one * 2))
    assert alone == shares[0][:2] + shares[1][:2] + shares[0][2:] + shares[1][2:]


def test_failed_branches_count_as_failed_episodes():
    play = lambda rollouts: [failed() for _ in rollouts]  # noqa: E731
    with pytest.raises(TrainingFault, match="3 episodes of one iteration failed"):
        give([told("a"), told("b"), failed()], Credit5, play, FaultConfig(max_failed_episodes=3))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([np.zeros(3)] * 2, "gave 2 credits for a group that has 3 members"),
        ([np.zeros(3), np.zeros(2), np.zeros(3)], r"shape \(2,\) for episode 1 .* has 3 steps"),
        ([np.zeros(3), np.zeros(3), 0.5], r"shape \(\) for episode 2"),
        ([np.zeros(3), [0, np.nan, 0], np.zeros(3)], "not finite for episode 1"),
        ([np.zeros(3)] * 2 + [Credit(np.zeros(3), [Span(0, 0, 1, np.inf)])], "episode 2"),
    ],
)
def test_what_is_no_credit_is_told(given, says):
    class Wrong(Credit5):
        def score_episode(self, episode, judge):
            return None

        def score_group(self, group):
            return given

    with pytest.raises(ValueError, match=says):
        give([told("a"), told("b"), told("c")], Wrong)


def test_options_stand_behind_the_name_or_beside_it():
    config = GRPOConfig(credit="gigpo(discount=0.5)", credit_options={"weight": 2})
    assert config.credit == "gigpo"
    assert config.credit_options == {"weight": 2.0, "discount": 0.5}
    assert dataclasses.replace(config) == config and hash(config) == hash(config)
    assert GRPOConfig().credit == "broadcast" and GRPOConfig().credit_options == {}


@pytest.mark.parametrize(
    ("rule", "options", "says"),
    [
        ("gigp", {}, "grpo.credit: There is no credit rule 'gigp'.*did you mean 'gigpo'"),
        ("gigpo", {"discont": 1.0}, "grpo.credit_options has no option 'discont'; did you mean"),
        ("gigpo(discount=2)", {}, "grpo.credit_options.discount is 2.0; it must be in"),
        ("gigpo", {"weight": "x"}, "grpo.credit_options.weight is 'x'; it must be a number"),
        ("local", {"memories": 0}, "grpo.credit_options.memories is 0"),
        ("local", {"continuations": 0}, "grpo.credit_options.continuations is 0"),
        ("utility", {"unsupported": 1.5}, "grpo.credit_options.unsupported is 1.5"),
        (Stopwatch, {}, "has no score_episode; a credit rule has"),
        ("broadcast(", {}, "grpo.credit: 'broadcast\\(' must be a name"),
    ],
)
def test_a_wrong_rule_or_option_is_told_by_its_name(rule, options, says):
    with pytest.raises(ValueError, match=says):
        GRPOConfig(credit=rule, credit_options=options)
