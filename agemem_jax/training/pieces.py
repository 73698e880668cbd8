"""Segments cut down to what training needs, and in which order they share their tokens.

All of this is on the host and deterministic.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from agemem_jax.rollout.trajectory import Segment
from agemem_jax.training.credit.rule import Credit


class HasSegments(Protocol):
    """What packing needs of a trajectory or a demonstration."""

    segments: list[Segment]


@dataclasses.dataclass(frozen=True)
class Piece:
    """One segment, cut behind its last action token.

    Of a segment that starts with the shared prefix only the rest is kept, and `start` is
    the prefix's length. A piece that is `alone` shares no tokens with others.
    """

    start: int
    token_ids: np.ndarray
    target_index: np.ndarray  # index of the target in token_ids
    step_index: np.ndarray
    log_probs: np.ndarray
    steps_of_trajectory: int
    tokens_of_step: np.ndarray  # by target
    advantages: np.ndarray  # by target
    alone: bool = False

    @property
    def num_inputs(self) -> int:
        return len(self.token_ids) - 1

    @property
    def num_targets(self) -> int:
        return len(self.target_index)


def count_steps(trajectories: Sequence[HasSegments]) -> list[dict[int, int]]:
    """For every trajectory the action tokens of its steps."""
    steps = []
    for index, trajectory in enumerate(trajectories):
        counts: dict[int, int] = {}
        seen: dict[int, int] = {}
        for number, segment in enumerate(trajectory.segments):
            if len(segment.token_ids) and segment.action_mask[0]:
                raise ValueError(
                    f"Segment {number} of trajectory {index} starts with an action token; an "
                    "action needs at least one prompt token before it."
                )
            found, tokens = np.unique(
                np.asarray(segment.step_index)[np.asarray(segment.action_mask, bool)],
                return_counts=True,
            )
            for step, count in zip(found.tolist(), tokens.tolist(), strict=True):
                if step in seen:
                    raise ValueError(
                        f"Step {step} of trajectory {index} has action tokens in segments "
                        f"{seen[step]} and {number}; every step must be trained in one segment."
                    )
                seen[step], counts[step] = number, count
        steps.append(counts)
    return steps


def cut(
    trajectories: Sequence[HasSegments],
    advantages: Sequence[float | Credit],
    steps: Sequence[dict[int, int]],
    prefix: Int[np.ndarray, " prefix"],
) -> list[Piece]:
    """Cuts segments down to what training needs; their targets are not weighed yet."""
    pieces = []
    for trajectory, advantage, counts in zip(trajectories, advantages, steps, strict=True):
        for segment in trajectory.segments:
            target_index = np.flatnonzero(segment.action_mask)
            if not len(target_index):
                continue
            step_index = np.asarray(segment.step_index)[target_index]
            token_ids = np.asarray(segment.token_ids)
            # The token that predicts the first target must stay in the row.
            shares = target_index[0] > len(prefix) and np.array_equal(
                token_ids[: len(prefix)], prefix
            )
            start = len(prefix) if shares else 0
            pieces.append(
                Piece(
                    start=start,
                    token_ids=token_ids[start : target_index[-1] + 1],
                    target_index=target_index - start,
                    step_index=step_index,
                    log_probs=np.asarray(segment.log_probs)[target_index],
                    steps_of_trajectory=len(counts),
                    tokens_of_step=np.array([counts[step] for step in step_index.tolist()]),
                    advantages=_by_target(advantage, step_index),
                )
            )
    return pieces


def _by_target(
    advantage: float | Credit, step_index: Int[np.ndarray, " target"]
) -> Float[np.ndarray, " target"]:
    """The advantage of every target of a segment."""
    if not isinstance(advantage, Credit):
        return np.full(len(step_index), float(advantage))
    # The tokens of a step stand one behind the other, and all in one segment.
    _, first, step = np.unique(step_index, return_index=True, return_inverse=True)
    return advantage.of_tokens(step_index, np.arange(len(step_index)) - first[step])


class Order:
    """Pieces in lexicographic order, so that the ones that start alike are neighbours."""

    def __init__(self, pieces: Sequence[Piece]):
        keys = [(piece.start, piece.token_ids[:-1].astype(">u4").tobytes()) for piece in pieces]
        order = sorted(range(len(pieces)), key=lambda index: (keys[index], index))
        self.pieces = [pieces[index] for index in order]
        self._shared = [0] + [
            common_inputs(before, after) for before, after in itertools.pairwise(self.pieces)
        ]

    def shared(self, first: int, second: int) -> int:
        """How many input tokens two pieces start alike with."""
        return min(self._shared[first + 1 : second + 1])

    def clusters(self) -> list[range]:
        """Runs of pieces that share anything, the largest first."""
        starts = [index for index, shared in enumerate(self._shared) if not shared]
        runs = [range(a, b) for a, b in itertools.pairwise([*starts, len(self.pieces)])]
        return sorted(runs, key=lambda run: -sum(self.pieces[i].num_inputs for i in run))


def common_inputs(first: Piece, second: Piece) -> int:
    if first.start != second.start or first.alone or second.alone:
        return 0
    length = min(first.num_inputs, second.num_inputs)
    differ = np.flatnonzero(first.token_ids[:length] != second.token_ids[:length])
    return int(differ[0]) if len(differ) else length


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much there is to train on, in one process or in all of them."""

    steps: int
    tokens: int
    trajectories: int
    longest: int  # inputs of a piece
    most_targets: int  # of a piece

    @classmethod
    def measure(cls, pieces: Sequence[Piece], steps: Sequence[dict[int, int]]) -> "Extent":
        """Of one process; `steps` is what `count_steps` gave."""
        return cls(
            steps=sum(len(counts) for counts in steps),
            tokens=sum(sum(counts.values()) for counts in steps),
            trajectories=sum(bool(counts) for counts in steps),
            longest=max((piece.num_inputs for piece in pieces), default=1),
            most_targets=max((piece.num_targets for piece in pieces), default=0),
        )

    @classmethod
    def of_all(cls, parts: Sequence["Extent"]) -> "Extent":
        counted = (
            sum(getattr(part, name) for part in parts)
            for name in ("steps", "tokens", "trajectories")
        )
        return cls(
            *counted,
            max(part.longest for part in parts),
            max(part.most_targets for part in parts),
        )


def weight(
    extent: Extent, steps: int, tokens: int, normalisation: str, constant_length: int | None = None
) -> float:
    """Weight of one action token.

    Args:
      extent: of the whole batch.
      steps: of its trajectory.
      tokens: action tokens of its step.
      normalisation: what counts equally, see `grpo_loss`.
      constant_length: tokens of a trajectory for "constant".
    """
    if normalisation == "step":
        return 1.0 / (extent.steps * tokens)
    if normalisation == "trajectory":
        return 1.0 / (extent.trajectories * steps * tokens)
    if normalisation == "constant":
        return 1.0 / (extent.trajectories * constant_length)
    return 1.0 / extent.tokens
