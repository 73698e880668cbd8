"""Means over a batch of trajectories, for the metrics of an iteration."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from agemem_jax.parallel import processes
from agemem_jax.protocol.events import FormatEvent
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

# What R_context and R_memory are the means of.
REWARD_PARTS = (
    "compression", "preventive", "preservation", "storage", "maintenance", "relevance",
)  # fmt: skip


def summarise(trajectories: Sequence[Trajectory], rewards: Sequence[Reward]) -> dict[str, float]:
    """Means over the trajectories of all processes, each of which must call this.

    Empty when there is none. `prompt_tokens` leaves out episodes whose first prompt was
    too long; it is 0 when there is no other. `tc/…` and `failed_calls` are those of an
    evaluation (`rollout/call_counts.py`).
    """
    rows = [row for part in processes.gather(_rows(trajectories, rewards)) for row in part]

    if not rows:
        return {}

    def mean(name: str) -> float:
        known = [row[name] for row in rows if row[name] is not None]
        return float(np.mean(known)) if known else 0.0

    calls = [CallCounts(**row["calls"]) for row in rows]
    values = {
        name: mean(name)
        for name in (
            "reward", "reward_task", "reward_context", "reward_memory", "reward_penalty",
            *(f"reward_{part}" for part in REWARD_PARTS),
            "success", "memory_quality", "answered", "steps", "prompt_tokens", "format_errors",
            "dropped_messages",
        )
    }  # fmt: skip
    values["failed_calls"] = failed_share(calls)
    return values | {f"tc/{name}": value for name, value in calls_per_episode(calls).items()}


def _rows(trajectories: Sequence[Trajectory], rewards: Sequence[Reward]) -> list[dict[str, Any]]:
    """What is counted of each trajectory, as plain values."""
    rows = []
    for trajectory, reward in zip(trajectories, rewards, strict=True):
        task = trajectory.task
        rows.append(
            {
                "reward": reward.total,
                "reward_task": reward.task,
                "reward_context": reward.context,
                "reward_memory": reward.memory,
                "reward_penalty": reward.penalty,
                **{f"reward_{part}": getattr(reward, part) for part in REWARD_PARTS},
                "success": float(reward.task >= 1.0),
                "memory_quality": memory_quality(
                    trajectory.memory, task.supporting_facts, task.stale_facts
                ),
                "answered": float(trajectory.answer is not None),
                "steps": trajectory.num_steps,
                "prompt_tokens": trajectory.mean_prompt_tokens,
                "format_errors": sum(isinstance(e, FormatEvent) for e in trajectory.events),
                "dropped_messages": trajectory.dropped_messages,
                "calls": dataclasses.asdict(count_calls(trajectory.events)),
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
