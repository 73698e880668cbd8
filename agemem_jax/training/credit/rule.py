"""What a credit rule is: two hooks that give every step of a group's episodes its advantage.

`score_episode` looks at one episode that has ended, `score_group` compares those of a task. A
rule is a class with its options (`registry.py`); it knows nothing of packing or of the loss.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from agemem_jax.rewards.judges import Judge
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Branches:
    """What `score_episode` returns to have an episode played on from one of its steps.

    A branch replays the first `steps` steps of the episode, memory and environment included,
    and samples all others anew. `count` is how many there are.
    """

    steps: int
    count: int


@dataclasses.dataclass
class Episode:
    """One episode with what is known of it.

    Attributes:
      trajectory: what was played.
      reward: R(τ) and what it is made of.
      place: among the K rollouts of its group; failed ones, which are left out, have theirs.
      decode: text of sampled token ids.
      score: what `score_episode` returned.
      replayed: how many of the first steps of a branch are its parent's; they are not trained.
      branches: episodes that begin as this one did, where `score` asked for some.
    """

    trajectory: Trajectory
    reward: Reward
    place: int
    decode: Callable[[Sequence[int]], str]
    score: Any = None
    replayed: int = 0
    branches: "list[Episode]" = dataclasses.field(default_factory=list)

    @property
    def num_steps(self) -> int:
        return self.trajectory.num_steps


@dataclasses.dataclass(frozen=True)
class Group:
    """The episodes of one task.

    Attributes:
      episodes: those that did not fail, in order.
      compare: A_k of numbers that are compared among themselves, as the options of `grpo` say
        (`advantages.group_advantages`); zeros where there are fewer than two.
      counts: of what the rule did, for the metrics `credit/NAME`; added up over all groups.
    """

    episodes: Sequence[Episode]
    compare: Callable[[Sequence[float]], Float[np.ndarray, " episode"]]
    counts: collections.Counter

    @property
    def members(self) -> list[Episode]:
        """All that can be trained on: the episodes, then the branches of each."""
        return [*self.episodes, *(branch for each in self.episodes for branch in each.branches)]


@dataclasses.dataclass(frozen=True)
class Span:
    """Adds `value` to the advantages of tokens [start, end) of those that `step` sampled."""

    step: int
    start: int
    end: int
    value: float


@dataclasses.dataclass(frozen=True)
class Credit:
    """The advantages of one episode.

    Attributes:
      steps: a number for each step.
      spans: what some of the tokens of a step get besides.
    """

    steps: Float[np.ndarray, " step"]
    spans: Sequence[Span] = ()

    def __bool__(self) -> bool:
        """Whether anything is learned of it."""
        return bool(np.any(self.steps) or any(span.value for span in self.spans))

    def of_tokens(
        self, step: Int[np.ndarray, " token"], place: Int[np.ndarray, " token"]
    ) -> Float[np.ndarray, " token"]:
        """Advantages of sampled tokens, given the step of each and its place there."""
        values = np.asarray(self.steps)[step]
        for span in self.spans:
            inside = (step == span.step) & (place >= span.start) & (place < span.end)
            values = values + np.where(inside, span.value, 0.0).astype(values.dtype)
        return values


class CreditRule(Protocol):
    """How advantages are given; its options are what the class takes by keyword."""

    def score_episode(self, episode: Episode, judge: Judge) -> Any:
        """What is computed of one `episode` on its own, by `judge` if needed; its `score` later.

        It is called once for each of the K rollouts, when all are rewarded, and not for
        branches. `Branches` asks for some of this episode.
        """
        ...

    def score_group(self, group: Group) -> Sequence[Credit | Float[np.ndarray, " step"]]:
        """A `Credit` for each of `group.members`, in order, or only advantages by step.

        What stands at the replayed steps of a branch is not read.
        """
        ...
