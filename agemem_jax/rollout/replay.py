"""Episodes that begin as another one did: what was sampled is answered from its record.

A branch needs no snapshot: its first steps are replayed. The episode runs as ever, memory
operations and environments included, so that at the branch point it, its memory and its context
are exactly those of the parent; the model computes nothing until the first step that is new.
"""

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from agemem_jax.rollout.host_calls import ToolFault
from agemem_jax.rollout.requests import Generate, Generated
from agemem_jax.rollout.trajectory import Segment, Trajectory

if TYPE_CHECKING:
    from agemem_jax.rollout.driver import Backend, Rollout


@dataclasses.dataclass(frozen=True)
class RecordedStep:
    """A prompt and what was sampled behind it."""

    prompt: tuple[int, ...]
    generated: Generated


def recorded_steps(trajectory: Trajectory) -> list[RecordedStep]:
    """The generations of a trajectory by step, as its segments hold them."""
    steps = {}
    for segment in trajectory.segments:
        ids = segment.token_ids.tolist()
        numbers, starts, counts = np.unique(
            segment.step_index, return_index=True, return_counts=True
        )
        spans = zip(numbers.tolist(), starts.tolist(), counts.tolist(), strict=True)
        for number, start, count in spans:
            if number >= 0:
                end = start + count
                generated = Generated(tuple(ids[start:end]), segment.log_probs[start:end])
                steps[number] = RecordedStep(tuple(ids[:start]), generated)
    return [steps[number] for number in sorted(steps)]


def without_replayed(trajectory: Trajectory, steps: int) -> Trajectory:
    """The trajectory with nothing to train on in its first `steps`, which another one sampled."""
    return dataclasses.replace(
        trajectory, segments=[_from_step(each, steps) for each in trajectory.segments]
    )


def _from_step(segment: Segment, first: int) -> Segment:
    own = segment.step_index >= first
    return Segment(
        token_ids=segment.token_ids,
        action_mask=segment.action_mask & own,
        step_index=np.where(own, segment.step_index, -1).astype(segment.step_index.dtype),
        log_probs=np.where(own, segment.log_probs, 0).astype(segment.log_probs.dtype),
    )


class ReplayBackend:
    """Answers the steps that a rollout replays; leaves all others to the backend behind it."""

    def __init__(self, backend: "Backend"):
        self.slots = backend.slots
        self._backend = backend
        self._records: dict[int, Sequence[RecordedStep]] = {}
        self._ready: deque[tuple[int, Generated | ToolFault]] = deque()

    def begin(self, slot: int, rollout: "Rollout") -> None:
        self._records[slot] = rollout.replay
        self._backend.begin(slot, rollout)

    def submit(self, slot: int, request: Generate) -> None:
        record = self._records[slot]
        if request.step >= len(record):
            self._backend.submit(slot, request)
        elif record[request.step].prompt == request.prompt:
            self._ready.append((slot, record[request.step].generated))
        else:
            fault = f"replayed, it came to another prompt at step {request.step}"
            self._ready.append((slot, ToolFault(fault)))

    def step(self) -> Sequence[tuple[int, Generated | ToolFault]]:
        if self._ready:
            ready, self._ready = list(self._ready), deque()
            return ready
        return self._backend.step()
