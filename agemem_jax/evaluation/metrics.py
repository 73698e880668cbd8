"""The measures of section 4.1 with bootstrap confidence intervals.

J, MQ, TN and TC, and of environments success, progress and grounding as AgentBoard has them.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from agemem_jax.rewards import answer_f1, measures
from agemem_jax.rewards.estimates import Estimate, bootstrap
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.call_counts import calls_per_episode, count_calls, failed_share
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Measures:
    """One method on one set of tasks.

    Attributes:
      tasks: how many were played to their end; all means are over these.
      estimates: means by name, each over the tasks that have it:
        `j`, judge score of the answers, in [0, 1], and `f1`, their F1 as the data set counts
        it; no answer counts 0 (questions);
        `success`, `progress`, `grounding`, see `rewards.measures` (environments);
        `mq`, stored memories against the gold supporting facts, by the judge, in [0, 1] (tasks
        with such facts);
        `reward`, the total, and `r_NAME`, every component of it but the task's;
        `tn`, mean prompt tokens of a generation.
      tc: tool calls per episode, by tool, failed ones included.
      failed_calls: share of tool calls that failed.
      categories: `estimates` of the tasks of each category, where there are several.
      judge: what became of the questions to an LLM judge (`JudgeStats`), among them the
        scores that the offline judge gave in its place; empty where that is the judge.
      failed: tasks left out because something outside of the policy ended the episode.
      dropped_messages: messages of a task that Stage 1 left out, per task.
    """

    tasks: int
    estimates: dict[str, Estimate]
    tc: dict[str, float]
    failed_calls: float
    categories: dict[str, dict[str, Estimate]] = dataclasses.field(default_factory=dict)
    judge: dict[str, int] = dataclasses.field(default_factory=dict)
    failed: int = 0
    dropped_messages: float = 0.0

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]


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
    rows = [
        _row(trajectory, reward, quality)
        for trajectory, reward, quality in zip(trajectories, rewards, memory_qualities, strict=True)
    ]
    categories = [trajectory.task.category for trajectory in trajectories]
    names = sorted(set(categories))
    calls = [count_calls(trajectory) for trajectory in trajectories]
    return Measures(
        tasks=len(trajectories),
        estimates=_estimates(rows, samples),
        tc=calls_per_episode(calls),
        failed_calls=failed_share(calls),
        categories={
            name: _estimates(
                [r for r, c in zip(rows, categories, strict=True) if c == name], samples
            )
            for name in (names if len(names) > 1 else ())
        },
        failed=failed,
        dropped_messages=float(np.mean([t.dropped_messages for t in trajectories])),
    )


def _row(trajectory: Trajectory, reward: Reward, quality: float) -> dict[str, float | None]:
    """The values of one task, in the order of tables; None where it has no such value."""
    goal = measures.of_goal(trajectory, reward)
    task = trajectory.task
    return {
        "j": max(0.0, reward.components.get("task", 0.0)) if task.is_question else None,
        "f1": answer_f1.of_trajectory(trajectory),
        "success": None if task.is_question else goal["success"],
        "progress": goal.get("progress"),
        "grounding": goal.get("grounding"),
        "mq": quality if task.supporting_facts else None,
        **{f"r_{name}": value for name, value in reward.components.items() if name != "task"},
        "reward": reward.total,
        "tn": trajectory.mean_prompt_tokens,
    }


def _estimates(rows: Sequence[dict[str, float | None]], samples: int) -> dict[str, Estimate]:
    estimates = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        known = [row[name] for row in rows if row.get(name) is not None]
        if known:
            estimates[name] = bootstrap(np.asarray(known), samples)
    return estimates
