"""How the rewards of an iteration's groups become advantages, and the branches played for it.

The rule of `grpo.credit` is asked here. It sees one group at a time, and a group never straddles
processes, so that each process does this for its own share of the tasks.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from agemem_jax.parallel import processes
from agemem_jax.rewards.judges import Judge
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.driver import Rollout
from agemem_jax.rollout.replay import recorded_steps, without_replayed
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.training.advantages import group_advantages
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.credit import registry
from agemem_jax.training.credit.rule import Branches, Credit, Episode, Group
from agemem_jax.training.faults import Faults
from agemem_jax.training.monitoring.throughput import Stopwatch

# Apart from the places of tasks in an iteration and from steps, whose keys come of the same ones.
_BRANCH_STREAM = 0x6272616E

Play = Callable[[Sequence[Rollout]], list[Trajectory]]
GiveReward = Callable[[Sequence[Trajectory]], list[Reward]]


class Credited(NamedTuple):
    """What to train on.

    Attributes:
      trajectories: those that did not fail, and their branches, whose replayed steps have nothing
        to train on. Groups that are dropped are not among them.
      advantages: a `Credit` for each.
      counts: of what the rule did, in all processes, for metrics.
      dropped: groups of all processes that are not trained on, since all their advantages are 0.
    """

    trajectories: list[Trajectory]
    advantages: np.ndarray
    counts: Mapping[str, int]
    dropped: int


class CreditAssignment:
    """Gives credit by the rule of a run; holds nothing from one iteration to the next."""

    def __init__(
        self,
        config: GRPOConfig,
        judge: Judge,
        decode: Callable[[Sequence[int]], str],
        faults: Faults,
    ):
        """By `config`, with a judge that rules may ask, and text of sampled token ids."""
        self._config, self._judge, self._decode, self._faults = config, judge, decode, faults
        self._rule = registry.build(config.credit, config.credit_options)

    def credit(
        self,
        trajectories: Sequence[Trajectory],
        rewards: Sequence[Reward],
        key: Key[Array, ""],
        play: Play,
        reward: GiveReward,
        clock: Stopwatch,
    ) -> Credited:
        """Has the rule look at all episodes, plays the branches it asks for, and compares.

        All processes must call this.

        Args:
          trajectories: of this process, K for each task, group after group.
          rewards: of those of them that did not fail, in order.
          key: of the iteration.
          play: plays branches.
          reward: gives their rewards.
          clock: takes the seconds of both, and of the rule's hooks.

        Raises:
          TrainingFault: too many episodes failed.
          ValueError: the rule gave something else than credit.
        """
        groups = self._episodes(trajectories, rewards)
        episodes = [episode for group in groups for episode in group]
        with clock.measure("judge"):
            for episode in episodes:
                episode.score = self._rule.score_episode(episode, self._judge)
        wanted = [each for each in episodes if isinstance(each.score, Branches)]
        faults = [t.fault for t in trajectories if t.fault is not None]
        counts: collections.Counter = collections.Counter()
        if any(processes.gather(bool(wanted))):
            faults += self._branch(groups, key, play, reward, clock, counts)
        faults = processes.gather(faults)
        self._faults.watch_episodes([fault for own in faults for fault in own])
        with clock.measure("judge"):
            compared = [self._compared(group, counts) for group in groups]
        pairs = [pair for group in compared for pair in group]
        dropped = sum(bool(g) and not pairs for g, pairs in zip(groups, compared, strict=True))
        advantages = np.empty(len(pairs), object)
        advantages[:] = [credit for _, credit in pairs]
        total: collections.Counter = collections.Counter()
        for own in processes.gather(dict(counts)):
            total.update(own)
        named = {f"credit/{name}": total[name] for name in sorted(total)}
        dropped = sum(processes.gather(dropped))
        return Credited([trajectory for trajectory, _ in pairs], advantages, named, dropped)

    def _episodes(
        self, trajectories: Sequence[Trajectory], rewards: Sequence[Reward]
    ) -> list[list[Episode]]:
        """Those that did not fail, by group."""
        size, left = self._config.group_size, iter(rewards)
        groups: list[list[Episode]] = [[] for _ in range(len(trajectories) // size)]
        for index, trajectory in enumerate(trajectories):
            if trajectory.fault is None:
                place = index % size
                groups[index // size].append(Episode(trajectory, next(left), place, self._decode))
        return groups

    def _branch(
        self,
        groups: Sequence[Sequence[Episode]],
        key: Key[Array, ""],
        play: Play,
        reward: GiveReward,
        clock: Stopwatch,
        counts: collections.Counter,
    ) -> list[str]:
        """Plays all branches and gives them to their episodes; the faults of those that failed."""
        process, number = jax.process_index(), jax.process_count()
        parents, rollouts = [], []
        for index, group in enumerate(groups):
            for episode in (each for each in group if isinstance(each.score, Branches)):
                steps = recorded_steps(episode.trajectory)[: episode.score.steps]
                own = jax.random.fold_in(key, _BRANCH_STREAM)
                for part in (process + index * number, episode.place):
                    own = jax.random.fold_in(own, part)
                for branch in range(episode.score.count):
                    parents.append(episode)
                    rollouts.append(
                        Rollout(episode.trajectory.task, jax.random.fold_in(own, branch), steps)
                    )
        with clock.measure("rollout"):
            played = play(rollouts)
        pairs = [(p, t) for p, t in zip(parents, played, strict=True) if t.fault is None]
        with clock.measure("judge"):
            rewards = reward([trajectory for _, trajectory in pairs])
        for (parent, trajectory), own in zip(pairs, rewards, strict=True):
            replayed = parent.score.steps
            branch = Episode(trajectory, own, parent.place, self._decode, None, replayed)
            parent.branches.append(branch)
            counts.update(branches=1, branch_steps=trajectory.num_steps - replayed)
        return [trajectory.fault for trajectory in played if trajectory.fault is not None]

    def _compared(
        self, episodes: Sequence[Episode], counts: collections.Counter
    ) -> list[tuple[Trajectory, Credit]]:
        """What to train on of one group."""
        if not episodes:
            return []
        group = Group(episodes, self._compare, counts)
        members = group.members
        credits = [
            each if isinstance(each, Credit) else Credit(np.asarray(each, np.float32))
            for each in self._rule.score_group(group)
        ]
        _check(members, credits, self._config.credit)
        if self._config.drop_zero_variance and not any(credits):
            return []
        trajectories = [
            without_replayed(each.trajectory, each.replayed) if each.replayed else each.trajectory
            for each in members
        ]
        return list(zip(trajectories, credits, strict=True))

    def _compare(self, values: Sequence[float]) -> np.ndarray:
        values = np.asarray(values, np.float64)
        if len(values) < 2:
            return np.zeros(len(values), np.float32)
        (advantages,) = group_advantages(
            values[None], self._config.advantage_eps,
            normalise_std=self._config.normalise_std, baseline=self._config.baseline,
        )  # fmt: skip
        return advantages


def _check(members: Sequence[Episode], credits: Sequence[Credit], rule: object) -> None:
    if len(credits) != len(members):
        raise ValueError(
            f"The credit rule {rule} gave {len(credits)} credits for a group that has "
            f"{len(members)} members; it must give one for each."
        )
    for number, (member, credit) in enumerate(zip(members, credits, strict=True)):
        if np.shape(credit.steps) != (member.num_steps,):
            raise ValueError(
                f"The credit rule {rule} gave advantages of shape {np.shape(credit.steps)} for "
                f"episode {number} of a group, which has {member.num_steps} steps; it must give "
                "one for each step."
            )
        if not np.isfinite([*credit.steps, *(span.value for span in credit.spans)]).all():
            raise ValueError(
                f"The credit rule {rule} gave an advantage that is not finite for episode {number} "
                "of a group."
            )
