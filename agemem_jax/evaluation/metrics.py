"""The measures of section 4.1 with bootstrap confidence intervals.

J, MQ, TN and TC, and of environments success, progress and grounding as AgentBoard has them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agemem_jax.protocol.events import UnaskedEditEvent
from agemem_jax.rewards import answer_f1, measures
from agemem_jax.rewards.estimates import Estimate, bootstrap_together
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
        it; no answer counts 0 (questions); what `judging.judged_rows` says of them;
        `success`, `progress`, `grounding`, see `rewards.measures` (environments);
        `mq`, stored memories against the gold supporting facts, by the judge, in [0, 1] (tasks
        with such facts);
        `reward`, the total, `r_NAME`, every component of it, and `part_NAME`, what components
        are made of;
        `memory_NAME`, the state of the final memory (`hygiene.hygiene_rows`);
        `unasked_NAME`, messages that the method itself took out of the context, by what became of
        them (`UnaskedEditEvent`);
        `tn`, mean prompt tokens of a generation; `context_share`, `context_share_max`,
        `idle_edits`, `format_errors` and `steps`, see `rewards.measures.of_play`;
        `calls`, `prompt_total` and `sampled`, see `Cost` (absent in earlier versions);
        `tc_TOOL`, calls of each tool, and `failed_share`, the share of a task's calls that failed.
      tc: tool calls per episode, by tool, failed ones included.
      failed_calls: share of all tool calls that failed.
      counts: over how many tasks the estimates are that some tasks have no value for.
      categories: `estimates` of the tasks of each category, where there are several.
      judge: what became of the questions to an LLM judge (`JudgeStats`), among them the
        scores that the offline judge gave in its place; empty where that is the judge.
      judged_by: the judge's model and prompts, with what they say (`Judge.description`).
      failed: tasks left out because something outside of the policy ended the episode.
      dropped_messages: messages of a task that Stage 1 left out, per task.
      timing: `seconds` of an episode (`Cost`), apart from what a second evaluation gives again.
    """

    tasks: int
    estimates: dict[str, Estimate]
    tc: dict[str, float]
    failed_calls: float
    categories: dict[str, dict[str, Estimate]] = dataclasses.field(default_factory=dict)
    judge: dict[str, int] = dataclasses.field(default_factory=dict)
    failed: int = 0
    dropped_messages: float = 0.0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    judged_by: dict[str, Any] = dataclasses.field(default_factory=dict)
    timing: dict[str, Estimate] = dataclasses.field(default_factory=dict, compare=False)

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]


def measure(
    trajectories: Sequence[Trajectory],
    rewards: Sequence[Reward],
    memory_qualities: Sequence[float],
    samples: int = 10_000,
    failed: int = 0,
    more: Sequence[Mapping[str, float | None]] | None = None,
) -> Measures:
    """Summarises trajectories, one per task; rewards and qualities are theirs.

    Args:
      trajectories: of episodes that did not fail.
      rewards, memory_qualities: one each.
      samples: of the bootstrap.
      failed: how many more tasks were played and failed.
      more: what else is known of each, by name.

    Raises:
      ValueError: there is no trajectory.
    """
    if not trajectories:
        raise ValueError(
            f"There is nothing to measure: no episode was played to its end, and {failed} failed."
        )
    rows = rows_of(trajectories, rewards, memory_qualities, more)
    seconds = [{"seconds": each.cost and each.cost.seconds} for each in trajectories]
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
        counts={
            name: known
            for name in _names(rows)
            if (known := sum(row.get(name) is not None for row in rows)) < len(rows)
        },
        timing=_estimates(seconds, samples),
    )


def rows_of(
    trajectories: Sequence[Trajectory],
    rewards: Sequence[Reward],
    memory_qualities: Sequence[float],
    more: Sequence[Mapping[str, float | None]] | None = None,
) -> list[dict[str, float | None]]:
    """What the estimates are means of: the values of each task by name, None where it has none.

    Arguments are those of `measure`.
    """
    more = [{}] * len(trajectories) if more is None else more
    every = zip(trajectories, rewards, memory_qualities, more, strict=True)
    return [
        {**_row(played, reward, quality), **others} for played, reward, quality, others in every
    ]


def _row(trajectory: Trajectory, reward: Reward, quality: float) -> dict[str, float | None]:
    """The values of one task, in the order of tables; None where it has no such value."""
    goal = measures.of_goal(trajectory, reward)
    task, play, calls = trajectory.task, measures.of_play(trajectory), count_calls(trajectory)
    kept = ("context_share", "context_share_max", "idle_edits", "format_errors", "steps")
    return {
        "j": max(0.0, reward.components.get("task", 0.0)) if task.is_question else None,
        "f1": answer_f1.of_trajectory(trajectory),
        "success": None if task.is_question else goal["success"],
        "progress": goal.get("progress"),
        "grounding": goal.get("grounding"),
        "mq": quality if task.supporting_facts else None,
        **{f"r_{name}": value for name, value in reward.components.items()},
        **{f"part_{name}": value for name, value in reward.parts.items()},
        "reward": reward.total,
        "tn": trajectory.mean_prompt_tokens,
        **{name: play[name] for name in kept},
        **_unasked(trajectory),
        **_cost(trajectory),
        **{f"tc_{name}": count for name, count in calls.by_tool.items()},
        "failed_share": calls.failed / calls.calls if calls.calls else None,
    }


def _unasked(trajectory: Trajectory) -> dict[str, int]:
    """Messages by what a method did with them by itself."""
    edits = [event for event in trajectory.events if isinstance(event, UnaskedEditEvent)]
    return {
        f"unasked_{kind}": sum(len(event.removed) for event in edits if event.edit == kind)
        for kind in ("trimmed", "summarised", "archived")
    }


def _cost(trajectory: Trajectory) -> dict[str, float]:
    cost = trajectory.cost
    if cost is None:
        return {}
    return {
        "calls": cost.calls,
        "prompt_total": cost.prompt_tokens,
        "sampled": cost.sampled_tokens,
    }


def _estimates(rows: Sequence[dict[str, float | None]], samples: int) -> dict[str, Estimate]:
    """Of every name that some row has; those that the same rows have are resampled together."""
    names = _names(rows)
    having: dict[tuple[bool, ...], list[str]] = {}
    for name in names:
        having.setdefault(tuple(row.get(name) is not None for row in rows), []).append(name)
    found: dict[str, Estimate] = {}
    for mask, together in having.items():
        known = [row for row, has in zip(rows, mask, strict=True) if has]
        if known:
            values = np.array([[row[name] for name in together] for row in known], np.float64)
            found |= dict(zip(together, bootstrap_together(values, samples), strict=True))
    return {name: found[name] for name in names if name in found}


def _names(rows: Sequence[dict[str, float | None]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
