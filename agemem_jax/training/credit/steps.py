"""What rules ask about the steps of an episode: their stage, the memory before them, and the
tokens of their calls. All of it is read from the record; nothing is played again."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from agemem_jax.protocol.events import ToolEvent
from agemem_jax.protocol.parser import call_spans
from agemem_jax.rollout.memory_changes import memory_changes
from agemem_jax.rollout.replay import recorded_steps
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.training.credit.rule import Episode


def steps_of_stage_1(trajectory: Trajectory) -> int:
    """How many steps stand before the reset; all of them where the episode did not get there."""
    later = [e.step for e in trajectory.transcript if e.stage > 1 and e.role in ("act", "summary")]
    return min(later, default=trajectory.num_steps)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One change of the memory.

    Attributes:
      event: of the call that made it.
      before, after: contents of the memory.
    """

    event: ToolEvent
    before: tuple[str, ...]
    after: tuple[str, ...]


def memory_operations(trajectory: Trajectory) -> list[Operation]:
    """The calls that changed the memory, in order; those that failed or changed nothing do not."""
    before: tuple[str, ...] = ()
    operations = []
    for event, memory in memory_changes(trajectory.events):
        after = tuple(memory.values())
        operations.append(Operation(event, before, after))
        before = after
    return operations


def memories(trajectory: Trajectory) -> list[tuple[str, ...]]:
    """The contents of the memory before each step, in alphabetical order."""
    contents, operations = (), memory_operations(trajectory)
    before, place = [], 0
    for step in range(trajectory.num_steps):
        while place < len(operations) and operations[place].event.step < step:
            contents, place = tuple(sorted(operations[place].after)), place + 1
        before.append(contents)
    return before


def tokens_of_calls(episode: Episode) -> dict[int, tuple[int, int]]:
    """Where the call of each tool event was sampled: [start, end) of the tokens of its step.

    By the place of the event among the trajectory's. A token belongs to a call if some of its
    characters do, so that quotes and brackets at its edges may come along.
    """
    spans: dict[int, tuple[int, int]] = {}
    called: dict[int, list[int]] = {}  # places of a step's events, in the order of its calls
    for place, event in enumerate(episode.trajectory.events):
        if isinstance(event, ToolEvent):
            called.setdefault(event.step, []).append(place)
    steps = recorded_steps(episode.trajectory) if called else []
    for step, places in called.items():
        ids = steps[step].generated.token_ids
        ends = _ends(episode, ids)
        text = episode.decode(ids)
        for place, (first, last) in zip(places, call_spans(text), strict=False):
            spans[place] = (
                int(np.searchsorted(ends, first, side="right")),
                int(np.searchsorted(ends, last, side="left")) + 1,
            )
    return spans


def _ends(episode: Episode, ids: Sequence[int]) -> np.ndarray:
    """How many characters the first 1, 2, ... tokens are.

    A character that is cut in half may count for several, until its last token has come.
    """
    lengths = [len(episode.decode(ids[: count + 1])) for count in range(len(ids))]
    return np.minimum.accumulate(lengths[::-1])[::-1]
