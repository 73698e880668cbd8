"""Means over a batch of trajectories, for the metrics of an iteration."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from agemem_jax.parallel import processes
from agemem_jax.rewards import measures
from agemem_jax.rewards.judges import Judge
from agemem_jax.rewards.memory_reward import memory_quality
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.call_counts import (
    CallCounts,
    calls_per_episode,
    count_calls,
    failed_share,
)
from agemem_jax.rollout.trajectory import Trajectory


def summarise(trajectories: Sequence[Trajectory], rewards: Sequence[Reward]) -> dict[str, float]:
    """Means over the trajectories of all processes, each of which must call this.

    Empty when there is none. A value that some trajectories do not have, such as `progress`
    with questions or `prompt_tokens` where the first prompt was too long, is the mean over the
    others; it is 0 when there is no other. So is a part of the reward, which is left out when no
    trajectory had it at stake; `at_stake/PART` is the share of those that had. `tc/…` and
    `failed_calls` are those of an evaluation (`rollout/call_counts.py`).
    """
    rows = [row for part in processes.gather(_rows(trajectories, rewards)) for row in part]

    if not rows:
        return {}

    def mean(name: str) -> float:
        known = [row[name] for row in rows if row.get(name) is not None]
        return float(np.mean(known)) if known else 0.0

    calls = [CallCounts(**row.pop("calls")) for row in rows]
    parts = [row.pop("parts") for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: mean(name) for name in names}
    for name in dict.fromkeys(name for each in parts for name in each):
        known = sum(row.get(f"reward_{name}") is not None for row in rows)
        if known < len(rows):
            values[f"at_stake/{name}"] = known / len(rows)
        if not known:
            del values[f"reward_{name}"]
    values["failed_calls"] = failed_share(calls)
    return values | {f"tc/{name}": value for name, value in calls_per_episode(calls).items()}


def _rows(trajectories: Sequence[Trajectory], rewards: Sequence[Reward]) -> list[dict[str, Any]]:
    """What is counted of each trajectory, as plain values; None where it has no such value."""
    rows = []
    for trajectory, reward in zip(trajectories, rewards, strict=True):
        task = trajectory.task
        rows.append(
            {
                **measures.of_reward(reward),
                "parts": list(reward.parts),
                **measures.of_goal(trajectory, reward),
                "memory_quality": memory_quality(
                    trajectory.memory, task.supporting_facts, task.stale_facts
                ),
                **measures.of_play(trajectory),
                "calls": dataclasses.asdict(count_calls(trajectory)),
            }
        )
    return rows


def with_judge_counts(values: dict[str, float], judge: Judge) -> dict[str, float]:
    """Adds what became of the questions to a judge, over all processes; each must call this.

    MQ is not rewarded, so training does not spend a request per trajectory on it: with a judge
    that counts, the value by supporting facts is renamed to say so. Evaluation asks the judge.
    """
    parts = processes.gather(judge.take_counts())
    counts = {f"judge/{name}": sum(part[name] for part in parts) for name in parts[0]}
    if counts and "memory_quality" in values:
        values = dict(values)
        values["memory_quality_offline"] = values.pop("memory_quality")
    return {**values, **counts}
