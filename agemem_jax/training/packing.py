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
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import numpy as np
from absl import logging
from jaxtyping import Array, Bool, Float, Int

from agemem_jax.training.configuration.grpo_config import NORMALISATIONS
from agemem_jax.training.credit.rule import Credit
from agemem_jax.training.pieces import (
    Extent,
    HasSegments,
    Order,
    Piece,
    common_inputs,
    count_steps,
    cut,
    weight,
)


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
      advantages: of the target's trajectory, or of its step and token (`grpo.credit`).
      weights: factor of the target in the loss; they add up to 1 over the batch.
      num_microbatches: how many microbatches are real; the rest is padding.
      rescored_log_probs: log-probabilities under the policy that sampled, as scoring computes
        them; None where those recorded serve.
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
    rescored_log_probs: Float[Array, "microbatch row target"] | None = None


def _place(pieces: list[Piece], length: int, max_targets: int) -> list[list[Piece]]:
    """Deals pieces into rows; each goes where most of it stands already and the rest fits."""
    order = Order(pieces)
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
    advantages: Sequence[float | Credit],
    config: PackingConfig,
    *,
    normalisation: str = "step",
    constant_length: int | None = None,
    prefix: Sequence[int] = (),
    gather: Callable[[Any], list[Any]] = lambda value: [value],
) -> Batch:
    """Packs the segments of trajectories into the arrays of one optimiser step.

    Args:
      trajectories: what to train on; segments without actions are left out.
      advantages: one per trajectory, a number for all of its tokens or a `Credit`; anything
        (say ones) for demonstrations.
      config: shapes.
      normalisation: "step", "trajectory", "token" or "constant", see `grpo_loss`.
      constant_length: for "constant".
      prefix: tokens that many segments start with (system prompt and tool schemas); they
        are computed once per microbatch instead of once per segment.
      gather: gives what every process called it with, when each packs its own share of a
        batch: the weights then add up to 1 over all, and all arrays have one shape. Values
        are dictionaries of numbers.

    Returns:
      A batch of numpy arrays. Without any action token it has no real microbatch.

    Raises:
      ValueError: a segment is longer than the longest row, or breaks the rules of
        `Segment`; the sentence says which.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(
            f"normalisation is {normalisation!r}; it must be one of {', '.join(NORMALISATIONS)}."
        )
    prefix_ids = np.asarray(prefix, np.int32).reshape(-1)
    steps = count_steps(trajectories)
    pieces = cut(trajectories, advantages, steps, prefix_ids)
    if not config.share:
        pieces = [dataclasses.replace(piece, alone=True) for piece in pieces]
    extent = Extent.measure(pieces, steps)
    extent = Extent.of_all([Extent(**part) for part in gather(dataclasses.asdict(extent))])
    longest, most = extent.longest, extent.most_targets
    fitting = [length for length in config.row_lengths if length >= longest]
    if not fitting:
        raise ValueError(
            f"A segment needs {longest} tokens of a row but the longest of "
            f"packing.row_lengths is {config.row_lengths[-1]}; raise it or lower the context "
            "budget."
        )
    length = fitting[0]
    max_targets = min(config.max_targets or length, length)
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
    counts = gather({"microbatches": -(-len(rows) // config.rows)})
    num_microbatches = max(each["microbatches"] for each in counts)
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
    weigh = functools.partial(
        weight, extent, normalisation=normalisation, constant_length=constant_length
    )
    shape = (room, config.rows)
    return _fill(rows, shape, length, max_targets, num_microbatches, prefix_ids, weigh)


def _fill(
    rows: list[list[Piece]],
    shape: tuple[int, int],
    length: int,
    max_targets: int,
    num_microbatches: int,
    prefix: Int[np.ndarray, " prefix"],
    weigh: Callable[[int, int], float],
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
            shared = 0 if before is None else common_inputs(before, piece)
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
                "advantages": piece.advantages,
                "weights": [weigh(piece.steps_of_trajectory, n) for n in piece.tokens_of_step],
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
