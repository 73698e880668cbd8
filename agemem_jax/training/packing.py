"""From segments to arrays of fixed shape: which token is trained, where, and how much.

Segments that start alike (those of the K rollouts of a task, and those of a trajectory
before and behind an edit) share their first tokens: a row is a forest, written down in the
order of a walk through it, in which every shared token stands once. The hidden state of a
token follows from its path alone, so gradients are those of separate rows.

A microbatch is what one forward pass takes, and the update adds up the microbatches that
are real. All of this is numpy on the host and deterministic. Axis order: [microbatch, row,
token] for what the model reads, [microbatch, row, target] for what is trained.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Protocol

import flax.struct
import numpy as np
from absl import logging
from jaxtyping import Array, Bool, Float, Int

from agemem_jax.rollout.trajectory import Segment
from agemem_jax.training.loss import NORMALISATIONS


class HasSegments(Protocol):
    """What packing needs of a trajectory or a demonstration."""

    segments: list[Segment]


@dataclasses.dataclass(frozen=True)
class PackingConfig:
    """Shapes of the packed arrays; every distinct shape is a compilation of its own.

    Attributes:
      row_lengths: tokens per row, ascending; a batch takes the smallest that its
        longest segment fits in.
      max_targets: action tokens per row, which bounds the rows of the vocabulary
        projection; None allows every token of a row to be one. A batch with a segment
        that needs more doubles it (and compiles once more).
      rows: rows per microbatch.
      max_microbatches: room for microbatches in one batch. A batch that needs more
        doubles it until it fits (and compiles once more).
      share: whether segments that start alike share tokens in a row. The gradients are the
        same; without it the work is what it would be for anyone else.
    """

    row_lengths: tuple[int, ...] = (1024, 2048)
    max_targets: int | None = None
    rows: int = 4
    max_microbatches: int = 64
    share: bool = True

    def __post_init__(self):
        lengths = tuple(self.row_lengths)
        object.__setattr__(self, "row_lengths", lengths)
        if not lengths or list(lengths) != sorted(set(lengths)) or lengths[0] < 1:
            raise ValueError(
                f"packing.row_lengths is {lengths}; it must be a non-empty ascending list of "
                "positive lengths."
            )
        for name in ("max_targets", "rows", "max_microbatches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"packing.{name} is {value}; it must be at least 1.")


@flax.struct.dataclass
class Batch:
    """Packed segments of one optimiser step.

    The log-probability of token i of a segment is read off at token i - 1, so a segment
    is stored without its last token, and a target is described by the position that
    predicts it. `visible_to` 0, `target_mask` false and weight 0 mean padding.

    Attributes:
      tokens: input ids.
      positions: index of a token within its segment, the prefix counted.
      visible_to: index behind the last token of the row that attends to this one.
      prefix: the tokens that most segments start with, once per microbatch.
      uses_prefix: which tokens stand behind the prefix.
      target_positions: index in the row of the token that predicts the target.
      targets: the ids to predict.
      target_mask: true where there is a target.
      step_ids: 1, 2, ... within a row; targets of one step share theirs.
      old_log_probs: log-probabilities recorded while sampling.
      ref_log_probs: log-probabilities under the reference; None until scored.
      advantages: of the target's trajectory.
      weights: factor of the target in the loss; they add up to 1 over the batch.
      num_microbatches: how many microbatches are real; the rest is padding.
    """

    tokens: Int[Array, "microbatch row token"]
    positions: Int[Array, "microbatch row token"]
    visible_to: Int[Array, "microbatch row token"]
    prefix: Int[Array, "microbatch prefix"]
    uses_prefix: Bool[Array, "microbatch row token"]
    target_positions: Int[Array, "microbatch row target"]
    targets: Int[Array, "microbatch row target"]
    target_mask: Bool[Array, "microbatch row target"]
    step_ids: Int[Array, "microbatch row target"]
    old_log_probs: Float[Array, "microbatch row target"]
    ref_log_probs: Float[Array, "microbatch row target"] | None
    advantages: Float[Array, "microbatch row target"]
    weights: Float[Array, "microbatch row target"]
    num_microbatches: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class _Piece:
    """One segment, cut behind its last action token, with its targets' weights.

    Of a segment that starts with the shared prefix only the rest is kept, and `start` is
    the prefix's length. A piece that is `alone` shares no tokens with others.
    """

    start: int
    token_ids: np.ndarray
    target_index: np.ndarray  # index of the target in token_ids
    step_index: np.ndarray
    log_probs: np.ndarray
    weights: np.ndarray
    advantage: float
    alone: bool = False

    @property
    def num_inputs(self) -> int:
        return len(self.token_ids) - 1

    @property
    def num_targets(self) -> int:
        return len(self.target_index)


def _weights(steps: list[list[tuple[int, int]]], normalisation: str) -> list[dict[int, float]]:
    """Weight of one action token, by trajectory and step.

    Args:
      steps: for every trajectory its (step index, action tokens) pairs.
      normalisation: what counts equally, see `grpo_loss`.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(
            f"normalisation is {normalisation!r}; it must be one of {', '.join(NORMALISATIONS)}."
        )
    num_steps = sum(len(trajectory) for trajectory in steps)
    num_tokens = sum(count for trajectory in steps for _, count in trajectory)
    num_trajectories = sum(bool(trajectory) for trajectory in steps)
    result = []
    for trajectory in steps:
        if normalisation == "step":
            share = {step: 1.0 / (num_steps * count) for step, count in trajectory}
        elif normalisation == "trajectory":
            of_step = num_trajectories * len(trajectory)
            share = {step: 1.0 / (of_step * count) for step, count in trajectory}
        else:
            share = {step: 1.0 / num_tokens for step, _ in trajectory}
        result.append(share)
    return result


def _pieces(
    trajectories: Sequence[HasSegments],
    advantages: Sequence[float],
    normalisation: str,
    prefix: Int[np.ndarray, " prefix"],
) -> list[_Piece]:
    """Cuts segments down to what training needs and weighs their targets."""
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
        steps.append(list(counts.items()))

    pieces = []
    for trajectory, advantage, share in zip(
        trajectories, advantages, _weights(steps, normalisation), strict=True
    ):
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
                _Piece(
                    start=start,
                    token_ids=token_ids[start : target_index[-1] + 1],
                    target_index=target_index - start,
                    step_index=step_index,
                    log_probs=np.asarray(segment.log_probs)[target_index],
                    weights=np.array([share[step] for step in step_index.tolist()]),
                    advantage=float(advantage),
                )
            )
    return pieces


class _Order:
    """Pieces in lexicographic order, so that the ones that start alike are neighbours."""

    def __init__(self, pieces: Sequence[_Piece]):
        keys = [(piece.start, piece.token_ids[:-1].astype(">u4").tobytes()) for piece in pieces]
        order = sorted(range(len(pieces)), key=lambda index: (keys[index], index))
        self.pieces = [pieces[index] for index in order]
        self._shared = [0] + [
            _common_inputs(before, after) for before, after in itertools.pairwise(self.pieces)
        ]

    def shared(self, first: int, second: int) -> int:
        """How many input tokens two pieces start alike with."""
        return min(self._shared[first + 1 : second + 1])

    def clusters(self) -> list[range]:
        """Runs of pieces that share anything, the largest first."""
        starts = [index for index, shared in enumerate(self._shared) if not shared]
        runs = [range(a, b) for a, b in itertools.pairwise([*starts, len(self.pieces)])]
        return sorted(runs, key=lambda run: -sum(self.pieces[i].num_inputs for i in run))


def _common_inputs(first: _Piece, second: _Piece) -> int:
    if first.start != second.start or first.alone or second.alone:
        return 0
    length = min(first.num_inputs, second.num_inputs)
    differ = np.flatnonzero(first.token_ids[:length] != second.token_ids[:length])
    return int(differ[0]) if len(differ) else length


def _place(pieces: list[_Piece], length: int, max_targets: int) -> list[list[_Piece]]:
    """Deals pieces into rows; each goes where most of it stands already and the rest fits."""
    order = _Order(pieces)
    rows: list[list[int]] = []  # places in `order`, ascending
    room: list[tuple[int, int]] = []
    for run in order.clusters():
        for place in run:
            piece = order.pieces[place]
            best, best_shared = None, -1
            for index, (free_inputs, free_targets) in enumerate(room):
                # Runs are dealt out one after the other, so the nearest is the last one.
                last = rows[index][-1]
                shared = order.shared(last, place) if last in run else 0
                fits = piece.num_inputs - shared <= free_inputs
                if fits and piece.num_targets <= free_targets and shared > best_shared:
                    best, best_shared = index, shared
            if best is None:
                rows.append([])
                room.append((length, max_targets))
                best, best_shared = len(rows) - 1, 0
            rows[best].append(place)
            free_inputs, free_targets = room[best]
            free_inputs -= piece.num_inputs - best_shared
            room[best] = (free_inputs, free_targets - piece.num_targets)
    return [[order.pieces[place] for place in row] for row in rows]


def pack(
    trajectories: Sequence[HasSegments],
    advantages: Sequence[float],
    config: PackingConfig,
    *,
    normalisation: str = "step",
    prefix: Sequence[int] = (),
) -> Batch:
    """Packs the segments of trajectories into the arrays of one optimiser step.

    Args:
      trajectories: what to train on; segments without actions are left out.
      advantages: one per trajectory; anything (say ones) for demonstrations.
      config: shapes.
      normalisation: "step", "trajectory" or "token", see `grpo_loss`.
      prefix: tokens that many segments start with (system prompt and tool schemas); they
        are computed once per microbatch instead of once per segment.

    Returns:
      A batch of numpy arrays. Without any action token it has no real microbatch.

    Raises:
      ValueError: a segment is longer than the longest row, or breaks the rules of
        `Segment`; the sentence says which.
    """
    prefix_ids = np.asarray(prefix, np.int32).reshape(-1)
    pieces = _pieces(trajectories, advantages, normalisation, prefix_ids)
    if not config.share:
        pieces = [dataclasses.replace(piece, alone=True) for piece in pieces]
    longest = max((piece.num_inputs for piece in pieces), default=1)
    fitting = [length for length in config.row_lengths if length >= longest]
    if not fitting:
        raise ValueError(
            f"A segment needs {longest} tokens of a row but the longest of "
            f"packing.row_lengths is {config.row_lengths[-1]}; raise it or lower the context "
            "budget."
        )
    length = fitting[0]
    max_targets = min(config.max_targets or length, length)
    most = max((piece.num_targets for piece in pieces), default=0)
    if most > max_targets:
        wider = length if most > 2 * max_targets else min(2 * max_targets, length)
        logging.warning(
            "A segment has %d action tokens, packing.max_targets is %d; compiling for %d.",
            most,
            max_targets,
            wider,
        )
        max_targets = wider

    rows = _place(pieces, length, max_targets)
    num_microbatches = -(-len(rows) // config.rows)
    room = config.max_microbatches
    while room < num_microbatches:
        room *= 2
    if room > config.max_microbatches:
        logging.warning(
            "A batch of %d microbatches passes packing.max_microbatches = %d; compiling for %d.",
            num_microbatches,
            config.max_microbatches,
            room,
        )
    return _fill(rows, (room, config.rows), length, max_targets, num_microbatches, prefix_ids)


def _fill(
    rows: list[list[_Piece]],
    shape: tuple[int, int],
    length: int,
    max_targets: int,
    num_microbatches: int,
    prefix: Int[np.ndarray, " prefix"],
) -> Batch:
    """Writes placed pieces into arrays; padding is zero everywhere."""
    by_token = {
        name: np.zeros((shape[0] * shape[1], length), np.int32)
        for name in ("tokens", "positions", "visible_to")
    }
    by_token["uses_prefix"] = np.zeros((shape[0] * shape[1], length), np.bool_)
    by_target = {
        name: np.zeros((shape[0] * shape[1], max_targets), dtype)
        for name, dtype in (
            ("target_positions", np.int32),
            ("targets", np.int32),
            ("target_mask", np.bool_),
            ("step_ids", np.int32),
            ("old_log_probs", np.float32),
            ("advantages", np.float32),
            ("weights", np.float32),
        )
    }
    for index, pieces in enumerate(rows):
        end, target, steps = 0, 0, 0
        path, before = np.zeros(0, np.int64), None  # where the inputs of a piece stand
        for piece in pieces:
            shared = 0 if before is None else _common_inputs(before, piece)
            by_token["visible_to"][index, path[shared:]] = end  # nothing follows them any more
            added = slice(end, end + piece.num_inputs - shared)
            by_token["tokens"][index, added] = piece.token_ids[shared:-1]
            by_token["positions"][index, added] = piece.start + np.arange(shared, piece.num_inputs)
            by_token["uses_prefix"][index, added] = piece.start > 0
            path = np.concatenate([path[:shared], np.arange(added.start, added.stop)])
            end, before = added.stop, piece
            found, inverse = np.unique(piece.step_index, return_inverse=True)
            values = {
                "target_positions": path[piece.target_index - 1],
                "targets": piece.token_ids[piece.target_index],
                "target_mask": True,
                "step_ids": steps + 1 + inverse,
                "old_log_probs": piece.log_probs,
                "advantages": piece.advantage,
                "weights": piece.weights,
            }
            for name, value in values.items():
                by_target[name][index, target : target + piece.num_targets] = value
            target, steps = target + piece.num_targets, steps + len(found)
        by_token["visible_to"][index, path] = end
    arrays = {name: array.reshape(*shape, -1) for name, array in {**by_token, **by_target}.items()}
    arrays["prefix"] = np.broadcast_to(prefix, (shape[0], len(prefix)))
    return Batch(
        ref_log_probs=None, num_microbatches=np.asarray(num_microbatches, np.int32), **arrays
    )


def split(
    count: int, minibatches: int, rng: np.random.Generator | None = None
) -> list[Int[np.ndarray, " trajectory"]]:
    """Deals `count` trajectories into minibatches of nearly equal size.

    Args:
      count: number of trajectories.
      minibatches: number of shares; empty ones are left out.
      rng: shuffles the trajectories first; None keeps their order.
    """
    order = np.arange(count) if rng is None else rng.permutation(count)
    return [share for share in np.array_split(order, minibatches) if len(share)]
