"""R(τ) = w_task R_task + w_context R_context + w_memory R_memory + P_penalty (section 3.5).

`compute_rewards` turns a batch of trajectories into rewards, with one batch of judge
requests per kind. None of them needs a group: `ask_ahead` starts them when an episode ends.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from agemem_jax.rewards import context_reward, memory_reward, task_reward
from agemem_jax.rewards.judges import Judge
from agemem_jax.rewards.penalty import penalty
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """How a trajectory is rewarded (appendices A.2 and C.4).

    Attributes:
      w_task, w_context, w_memory: weights of the components, at least 0, not all 0.
        (Version 1 of the paper says 1.0 each, its appendix and version 2 one third.)
      max_context_tokens: T_max, the budget that compression is measured against. It should
        be that of the episodes.
      no_answer: R_task without an answer.
      round_penalty: added when the rounds of Stage 3 ran out, not above 0.
      overflow_penalty: added when the context passed the budget, not above 0.
      high_quality: judge score from which a stored entry counts as high quality, in (0, 1].
    """

    w_task: float = 1 / 3
    w_context: float = 1 / 3
    w_memory: float = 1 / 3
    max_context_tokens: int = 8192
    no_answer: float = -1.0
    round_penalty: float = -1.0
    overflow_penalty: float = -0.5
    high_quality: float = 0.5

    def __post_init__(self):
        weights = ("w_task", "w_context", "w_memory")
        for name in (*weights, "no_answer", "round_penalty", "overflow_penalty", "high_quality"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"rewards.{name} is {value!r}; it must be a number.")
            if not math.isfinite(value):
                raise ValueError(f"rewards.{name} is {value}; it must be a finite number.")
        for name in weights:
            if getattr(self, name) < 0:
                raise ValueError(
                    f"rewards.{name} is {getattr(self, name)}; a weight must be 0 or more."
                )
        if not any(getattr(self, name) for name in weights):
            raise ValueError(f"rewards.{', '.join(weights)} are all 0; one must be above 0.")
        for name in ("round_penalty", "overflow_penalty"):
            if getattr(self, name) > 0:
                raise ValueError(
                    f"rewards.{name} is {getattr(self, name)}; a penalty must be 0 or less."
                )
        if not 0 < self.high_quality <= 1:
            raise ValueError(f"rewards.high_quality is {self.high_quality}; it must lie in (0, 1].")
        if isinstance(self.max_context_tokens, bool) or not isinstance(
            self.max_context_tokens, int
        ):
            raise ValueError(
                f"rewards.max_context_tokens is {self.max_context_tokens!r}; "
                "it must be a whole number of tokens."
            )
        if self.max_context_tokens < 1:
            raise ValueError(
                f"rewards.max_context_tokens is {self.max_context_tokens}; it must be at least 1."
            )


@dataclasses.dataclass(frozen=True)
class Reward:
    """The reward of one trajectory with everything it is made of.

    Attributes:
      total: R(τ).
      task: R_task, in [0, 1], or `RewardConfig.no_answer`.
      context, memory: R_context and R_memory, in [0, 1].
      penalty: P_penalty, at most 0.
      compression, preventive, preservation: the parts of `context`, in [0, 1].
      storage, maintenance, relevance: the parts of `memory`, in [0, 1].
    """

    total: float
    task: float
    context: float
    memory: float
    penalty: float
    compression: float
    preventive: float
    preservation: float
    storage: float
    maintenance: float
    relevance: float


def ask_ahead(trajectory: Trajectory, judge: Judge) -> None:
    """Tells the judge what `compute_rewards` will ask about an episode that has ended."""
    if trajectory.fault is not None:
        return
    answer = task_reward.answer_item(trajectory)
    relevance = memory_reward.relevance_item(trajectory.events, trajectory.task)
    judge.ask_ahead(
        answers=[] if answer is None else [answer],
        storage=memory_reward.storage_items(trajectory.events, trajectory.task),
        relevance=[] if relevance is None else [relevance],
    )


def compute_rewards(
    trajectories: Sequence[Trajectory], config: RewardConfig, judge: Judge
) -> list[Reward]:
    """Rewards of the trajectories, in order; a pure function but for what the judge is.

    Raises:
      ValueError: one of them failed from outside, which earns nothing, neither good nor bad.
    """
    failed = next((t.fault for t in trajectories if t.fault is not None), None)
    if failed is not None:
        raise ValueError(f"A failed episode has no reward; leave it out: {failed}")
    answers = _ask(judge.score_answers, [task_reward.answer_item(t) for t in trajectories])
    relevances = _ask(
        judge.score_relevance,
        [memory_reward.relevance_item(t.events, t.task) for t in trajectories],
    )
    stored = [memory_reward.storage_items(t.events, t.task) for t in trajectories]
    scores = iter(judge.score_storage([item for items in stored for item in items]))
    storage_scores = [[next(scores) for _ in items] for items in stored]
    return [
        _combine(trajectory, config, answer, storage, relevance or 0.0)
        for trajectory, answer, storage, relevance in zip(
            trajectories, answers, storage_scores, relevances, strict=True
        )
    ]


def _ask(score: Callable[[list[Any]], list[float]], items: Sequence[Any]) -> list[float | None]:
    """Scores of the items that exist, None where there is none."""
    scores = iter(score([item for item in items if item is not None]))
    return [None if item is None else next(scores) for item in items]


def _combine(
    trajectory: Trajectory,
    config: RewardConfig,
    answer_score: float | None,
    storage_scores: Sequence[float],
    relevance: float,
) -> Reward:
    events, answer = trajectory.events, trajectory.answer
    task = task_reward.task_reward(answer_score, config.no_answer)
    compression = context_reward.compression(answer, config.max_context_tokens)
    preventive = context_reward.preventive(events)
    preservation = context_reward.preservation(answer, trajectory.task.query)
    added = len(memory_reward.stage1_entries(events))
    storage = memory_reward.storage(storage_scores, added, config.high_quality)
    maintenance = memory_reward.maintenance(events)
    context = (compression + preventive + preservation) / 3
    memory = (storage + maintenance + relevance) / 3
    charge = penalty(events, config.round_penalty, config.overflow_penalty)
    total = config.w_task * task + config.w_context * context + config.w_memory * memory + charge
    return Reward(
        total=total,
        task=task,
        context=context,
        memory=memory,
        penalty=charge,
        compression=compression,
        preventive=preventive,
        preservation=preservation,
        storage=storage,
        maintenance=maintenance,
        relevance=relevance,
    )
