"""Which groups an iteration plays and trains on (dynamic sampling of DAPO, arXiv 2503.14476).

A group whose rewards are all equal has no advantage and teaches nothing. With
`grpo.max_resample_rounds` more batches of tasks are played until there are as many groups with
variance as an iteration trains on.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Bool

from agemem_jax.parallel import processes
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.training.advantages import zero_variance
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.monitoring.throughput import Stopwatch


@dataclasses.dataclass(frozen=True)
class Groups:
    """What this process has played in an iteration.

    Attributes:
      trajectories: all of them, group after group, those that failed included.
      rewards: of those that did not fail, in order.
      chosen: groups to train on.
      counts: metrics, the same in all processes.
    """

    trajectories: Sequence[Trajectory]
    rewards: Sequence[Reward]
    chosen: Bool[np.ndarray, " group"]
    counts: dict[str, int]

    @property
    def intact(self) -> list[Trajectory]:
        """Trajectories that have a reward."""
        return [t for t in self.trajectories if t.fault is None]

    @property
    def to_train_on(self) -> tuple[list[Trajectory], list[Reward]]:
        """Trajectories and rewards, as above, of the groups that were chosen."""
        chosen = np.repeat(self.chosen, self._size).tolist()
        kept = [t for t, keep in zip(self.trajectories, chosen, strict=True) if keep]
        intact = [keep for t, keep in zip(self.trajectories, chosen, strict=True) if not t.fault]
        return kept, [r for r, keep in zip(self.rewards, intact, strict=True) if keep]

    @property
    def left_out_faults(self) -> list[str]:
        """What failed in the other groups, of all processes; each must ask."""
        chosen = np.repeat(self.chosen, self._size).tolist()
        pairs = zip(self.trajectories, chosen, strict=True)
        faults = processes.gather([t.fault for t, keep in pairs if t.fault and not keep])
        return [fault for own in faults for fault in own]

    @property
    def _size(self) -> int:
        return len(self.trajectories) // max(1, len(self.chosen))


def sample_groups(
    play: Callable[[int], list[Trajectory]],
    reward: Callable[[list[Trajectory]], list[Reward]],
    grpo: GRPOConfig,
    wanted: int,
    clock: Stopwatch,
) -> Groups:
    """Plays rounds of tasks until `wanted` groups of all processes have variance.

    All processes play equally many rounds. Of the groups with variance the first `wanted` are
    chosen, in the order of tasks, so that an update is on as many as ever; the surplus is
    dropped, as in the paper. Where the rounds run out, what there is is trained on. Without
    resampling every group is chosen.

    Args:
      play: plays this process's share of round 0, 1, ...
      reward: of trajectories that did not fail.
      grpo: options.
      wanted: groups that one iteration trains on.
      clock: takes the seconds of rewards.
    """
    trajectories: list[Trajectory] = []
    rewards: list[Reward] = []
    teaches: list[bool] = []  # of all processes, in the order of tasks
    count, index = jax.process_count(), jax.process_index()
    for number in range(grpo.max_resample_rounds + 1):
        played = play(number)
        with clock.measure("judge"):
            scored = reward([t for t in played if t.fault is None])
        trajectories, rewards = trajectories + played, rewards + scored
        parts = processes.gather(have_variance(played, scored, grpo.group_size).tolist())
        teaches += [part[place] for place in range(len(parts[0])) for part in parts]
        if sum(teaches) >= wanted:
            break
    flags = np.array(teaches)
    chosen = np.ones_like(flags)
    if grpo.max_resample_rounds:
        chosen = flags & (np.cumsum(flags) <= wanted)
    counts = {
        "groups_sampled": len(flags),
        "groups_zero_variance": int(np.sum(~flags)),
        "groups_dropped": int(np.sum(~chosen)),
    }
    return Groups(trajectories, rewards, chosen[index::count], counts)


def have_variance(
    trajectories: Sequence[Trajectory], rewards: Sequence[Reward], group_size: int
) -> Bool[np.ndarray, " group"]:
    """Which groups have two rollouts that did not fail and whose rewards differ.

    Args:
      trajectories: group after group.
      rewards: of those that did not fail, in order.
      group_size: K.
    """
    totals = np.full(len(trajectories), np.nan)
    totals[[t.fault is None for t in trajectories]] = [reward.total for reward in rewards]
    groups = totals.reshape(-1, group_size)
    known = [group[~np.isnan(group)] for group in groups]
    return np.array([len(each) > 1 and not zero_variance(each[None])[0] for each in known], bool)
