"""R(τ), the weighted sum of the components (section 3.5).

`compute_rewards` turns a batch of trajectories into rewards, with one batch of judge
requests per kind. None of them needs a group: `ask_ahead` starts them when an episode ends.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agemem_jax.rewards.judges import Judge, Questions
from agemem_jax.rewards.registry import ComponentConfig, RewardConfig
from agemem_jax.rewards.score import Score
from agemem_jax.rollout.trajectory import Trajectory

__all__ = ["ComponentConfig", "Reward", "RewardConfig", "ask_ahead", "compute_rewards"]


@dataclasses.dataclass(frozen=True)
class Reward:
    """The reward of one trajectory with everything it is made of.

    Attributes:
      total: R(τ).
      components: the value of each, by name, without its weight, and as if all were paid.
      parts: what components say that they are made of, by name; None where one was not at stake.
    """

    total: float
    components: Mapping[str, float]
    parts: Mapping[str, float | None]

    @property
    def values(self) -> dict[str, float]:
        """All of it by name, the total first, without the parts that were not at stake."""
        known = {name: part for name, part in self.parts.items() if part is not None}
        return {"total": self.total, **self.components, **known}


def ask_ahead(index: int, trajectory: Trajectory, *, config: RewardConfig, judge: Judge) -> None:
    """Tells the judge what `compute_rewards` will ask about an episode that has ended."""
    del index  # of the episode, which a driver tells
    if trajectory.fault is not None:
        return
    asked = _questions(trajectory, config.build())
    judge.ask_ahead(answers=asked.answers, storage=asked.storage, relevance=asked.relevance)


def compute_rewards(
    trajectories: Sequence[Trajectory], config: RewardConfig, judge: Judge
) -> list[Reward]:
    """Rewards of the trajectories, in order; a pure function but for what the judge is.

    Raises:
      ValueError: one of them failed from outside, which earns nothing, neither good nor bad;
        or a component gave no number.
    """
    failed = next((t.fault for t in trajectories if t.fault is not None), None)
    if failed is not None:
        raise ValueError(f"A failed episode has no reward; leave it out: {failed}")
    components = config.build()
    asked = [_questions(trajectory, components) for trajectory in trajectories]
    known = _AskedAtOnce(judge, asked)
    return [_combine(trajectory, components, config, known) for trajectory in trajectories]


def _questions(trajectory: Trajectory, components: Mapping[str, Callable[..., Any]]) -> Questions:
    """What all components will ask about a trajectory."""
    every = [c.questions(trajectory) for c in components.values() if hasattr(c, "questions")]
    return Questions(
        answers=tuple(item for asked in every for item in asked.answers),
        storage=tuple(item for asked in every for item in asked.storage),
        relevance=tuple(item for asked in every for item in asked.relevance),
    )


class _AskedAtOnce:
    """A judge that has been asked one batch of each kind; asks the judge behind it the rest."""

    def __init__(self, judge: Judge, asked: Sequence[Questions]):
        self._judge = judge
        self._known: dict[Any, float] = {}
        for kind, score in (
            ("answers", judge.score_answers),
            ("storage", judge.score_storage),
            ("relevance", judge.score_relevance),
        ):
            items = [item for questions in asked for item in getattr(questions, kind)]
            scores = score(items)
            self._known |= {(kind, i): s for i, s in zip(items, scores, strict=True)}

    def score_answers(self, items: Sequence[Any]) -> list[float]:
        return self._scores("answers", items, self._judge.score_answers)

    def score_storage(self, items: Sequence[Any]) -> list[float]:
        return self._scores("storage", items, self._judge.score_storage)

    def score_relevance(self, items: Sequence[Any]) -> list[float]:
        return self._scores("relevance", items, self._judge.score_relevance)

    def score_memories(self, items: Sequence[Any]) -> list[float]:
        return self._judge.score_memories(items)

    def _scores(self, kind: str, items: Sequence[Any], ask) -> list[float]:
        missing = [item for item in items if (kind, item) not in self._known]
        if missing:
            scores = ask(missing)
            self._known |= {(kind, i): s for i, s in zip(missing, scores, strict=True)}
        return [self._known[kind, item] for item in items]


def _combine(
    trajectory: Trajectory,
    components: Mapping[str, Callable[..., Any]],
    config: RewardConfig,
    judge: _AskedAtOnce,
) -> Reward:
    values: dict[str, float] = {}
    parts: dict[str, float | None] = {}
    for name, component in components.items():
        score = component(trajectory, judge)
        if not isinstance(score, Score):
            score = Score(_number(name, score))
        twice = parts.keys() & score.parts.keys()
        if twice:
            raise ValueError(
                f"The reward component {name} has a part {twice.pop()!r}, as another one has; give "
                "it another name."
            )
        values[name] = score.value
        parts |= score.parts
    task = values.get("task", 0.0)
    total = 0.0
    for name, value in values.items():
        total += config.components[name].weight * value * config.paid(name, value, task)
    return Reward(total, values, parts)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The reward component {name} gave {value!r}; it must give a number or a Score."
        ) from error
