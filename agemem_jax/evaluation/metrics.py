"""The measures of section 4.1: J, MQ, TN and TC, with bootstrap confidence intervals."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.call_counts import calls_per_episode, count_calls, failed_share
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over tasks and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def percent(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclasses.dataclass(frozen=True)
class Measures:
    """One method on one set of tasks.

    Attributes:
      tasks: how many were played to their end; all means are over these.
      j: judge score of the answers, in [0, 1]; no answer counts 0.
      mq: stored memories against the gold supporting facts, by the judge, in [0, 1].
      r_memory: the memory reward R_memory, in [0, 1].
      reward: the total reward.
      tn: mean prompt tokens of a generation; an episode whose first prompt was too long
        has none and is left out, and without any other this is 0.
      tc: tool calls per episode, by tool, failed ones included.
      failed_calls: share of tool calls that failed.
      judge: what became of the questions to an LLM judge (`JudgeStats`), among them the
        scores that the offline judge gave in its place; empty where that is the judge.
      failed: tasks left out because something outside of the policy ended the episode.
      dropped_messages: messages of a task that Stage 1 left out, per task.
    """

    tasks: int
    j: Estimate
    mq: Estimate
    r_memory: Estimate
    reward: Estimate
    tn: Estimate
    tc: dict[str, float]
    failed_calls: float
    judge: dict[str, int] = dataclasses.field(default_factory=dict)
    failed: int = 0
    dropped_messages: float = 0.0


def bootstrap(values: Float[np.ndarray, " task"], samples: int = 10_000, seed: int = 0) -> Estimate:
    """Mean and percentile interval over resampled tasks; all 0 without any value."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return Estimate(0.0, 0.0, 0.0)
    rng = np.random.default_rng(seed)
    count = len(values)
    # One row at a time: all of them at once would be gigabytes for a whole data set.
    means = [values[rng.integers(count, size=count)].mean() for _ in range(samples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def measure(
    trajectories: Sequence[Trajectory],
    rewards: Sequence[Reward],
    memory_qualities: Sequence[float],
    samples: int = 10_000,
    failed: int = 0,
) -> Measures:
    """Summarises trajectories, one per task; rewards and qualities are theirs.

    Args:
      trajectories: of episodes that did not fail.
      rewards, memory_qualities: one each.
      samples: of the bootstrap.
      failed: how many more tasks were played and failed.

    Raises:
      ValueError: there is no trajectory.
    """
    if not trajectories:
        raise ValueError(
            f"There is nothing to measure: no episode was played to its end, and {failed} failed."
        )
    calls = [count_calls(t.events) for t in trajectories]
    lengths = [t.mean_prompt_tokens for t in trajectories]

    def estimate(values):
        return bootstrap(np.asarray(list(values)), samples)

    return Measures(
        tasks=len(trajectories),
        j=estimate(max(0.0, reward.task) for reward in rewards),
        mq=estimate(memory_qualities),
        r_memory=estimate(reward.memory for reward in rewards),
        reward=estimate(reward.total for reward in rewards),
        tn=estimate(length for length in lengths if length is not None),
        tc=calls_per_episode(calls),
        failed_calls=failed_share(calls),
        failed=failed,
        dropped_messages=float(np.mean([t.dropped_messages for t in trajectories])),
    )
