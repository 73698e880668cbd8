"""The measures of section 4.1: J, MQ, TN and TC, with bootstrap confidence intervals."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from agemem_jax.protocol.events import ToolEvent
from agemem_jax.protocol.tools import TOOL_NAMES
from agemem_jax.rewards.total import Reward
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
      tasks: how many were played.
      j: judge score of the answers, in [0, 1]; no answer counts 0.
      mq: stored memories against the gold supporting facts, by the judge, in [0, 1].
      r_memory: the memory reward R_memory, in [0, 1].
      reward: the total reward.
      tn: mean prompt tokens of a generation.
      tc: tool calls per episode, by tool, failed ones included.
      failed_calls: share of tool calls that failed.
      judge: what became of the questions to an LLM judge (`JudgeStats`), among them the
        scores that the offline judge gave in its place; empty where that is the judge.
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


def bootstrap(values: Float[np.ndarray, " task"], samples: int = 10_000, seed: int = 0) -> Estimate:
    """Mean and percentile interval over resampled tasks."""
    values = np.asarray(values, np.float64)
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
) -> Measures:
    """Summarises trajectories, one per task."""
    calls = [e for t in trajectories for e in t.events if isinstance(e, ToolEvent)]
    by_tool = collections.Counter(call.name for call in calls)
    count = len(trajectories)

    def estimate(values):
        return bootstrap(np.asarray(list(values)), samples)

    return Measures(
        tasks=count,
        j=estimate(max(0.0, reward.task) for reward in rewards),
        mq=estimate(memory_qualities),
        r_memory=estimate(reward.memory for reward in rewards),
        reward=estimate(reward.total for reward in rewards),
        tn=estimate(np.mean(t.prompt_tokens) if t.prompt_tokens else 0.0 for t in trajectories),
        tc={name: by_tool.get(name, 0) / count for name in TOOL_NAMES},
        failed_calls=sum(not call.ok for call in calls) / max(1, len(calls)),
    )
