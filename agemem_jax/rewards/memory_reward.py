"""R_memory: the mean of storage, maintenance and relevance (section 3.5, A.2).

All three are read from events. The final context knows nothing of Stage 1, and the final
memory nothing of what was stored and deleted again. MQ (section 4.1) alone looks at the final
memory; it is no part of the reward.
"""

import dataclasses
from collections.abc import Sequence

from agemem_jax.protocol.events import Event, RetrievalEvent, ToolEvent
from agemem_jax.rewards.judges import (
    EntriesItem,
    Judge,
    Questions,
    StorageItem,
    memory_quality,
)
from agemem_jax.rewards.score import Score, mean_of
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task

__all__ = [
    "MemoryReward",
    "maintenance",
    "memory_item",
    "memory_qualities",
    "memory_quality",
    "relevance_item",
    "retrieved_contents",
    "stage1_entries",
    "storage",
    "storage_items",
]


@dataclasses.dataclass(frozen=True)
class MemoryReward:
    """R_memory in [0, 1].

    Attributes:
      high_quality: judge score from which a stored entry counts as high quality, in (0, 1].
    """

    high_quality: float = 0.5

    def __post_init__(self):
        if not 0 < self.high_quality <= 1:
            raise ValueError(f"high_quality is {self.high_quality}; it must lie in (0, 1].")

    def questions(self, trajectory: Trajectory) -> Questions:
        events, task = trajectory.events, trajectory.task
        relevance = relevance_item(events, task)
        return Questions(
            storage=tuple(storage_items(events, task)),
            relevance=() if relevance is None else (relevance,),
        )

    def __call__(self, trajectory: Trajectory, judge: Judge) -> Score:
        asked, events = self.questions(trajectory), trajectory.events
        scores = judge.score_storage(asked.storage)
        relevance = judge.score_relevance(asked.relevance)
        return mean_of(
            storage=storage(scores, len(stage1_entries(events)), self.high_quality),
            maintenance=maintenance(events),
            relevance=relevance[0] if relevance else 0.0,
        )


def _successful(events: Sequence[Event], stage: int | None = None) -> list[ToolEvent]:
    return [
        event
        for event in events
        if isinstance(event, ToolEvent) and event.ok and stage in (None, event.stage)
    ]


def stage1_entries(events: Sequence[Event]) -> list[str | None]:
    """What became of the entries added in Stage 1 until its end, in order of adding.

    An entry is judged by the content that Stage 1 left it with, so that correcting it
    pays; None stands for an entry that Stage 1 deleted.
    """
    entries: list[str | None] = []
    place: dict[str | None, int] = {}
    for event in _successful(events, stage=1):
        if event.effect == "added":
            place[event.memory_id] = len(entries)
            entries.append(event.content)
        elif event.memory_id in place:
            if event.effect == "updated":
                entries[place[event.memory_id]] = event.content
            elif event.effect == "deleted":
                entries[place.pop(event.memory_id)] = None
    return entries


def storage_items(events: Sequence[Event], task: Task) -> list[StorageItem]:
    """What a judge is asked: one item per Stage 1 entry that still exists."""
    return [
        StorageItem(task.query, task.answer, entry, task.supporting_facts, task.stale_facts)
        for entry in stage1_entries(events)
        if entry is not None
    ]


def storage(scores: Sequence[float], total: int, threshold: float = 0.5) -> float:
    """N_high_quality / max(1, N_total).

    Args:
      scores: of the entries that were judged; high quality is `threshold` or more.
      total: entries added in Stage 1, deleted ones included (they are not high quality).
    """
    return sum(score >= threshold for score in scores) / max(1, total)


def maintenance(events: Sequence[Event]) -> float:
    """1 if an update or a delete changed the store, in any stage, else 0."""
    return float(any(event.effect in ("updated", "deleted") for event in _successful(events)))


def retrieved_contents(events: Sequence[Event]) -> tuple[str, ...]:
    """Contents that were retrieved in Stage 3, where the query is known.

    It makes no difference whether the policy asked for them or the episode retrieved them
    for it before an action (the RAG variants of section 4.1). What is retrieved in Stages 1
    and 2, by either of them, cannot have been meant for a query that nobody had read, and
    counts neither for relevance nor against it: the automatic retrieval of Stage 1 is there
    to show the policy what a message makes stale. An entry that came twice with the same
    content counts once.
    """
    found: dict[tuple[str, str], None] = {}
    for event in events:
        asked = isinstance(event, ToolEvent) and event.effect == "retrieved"
        if event.stage == 3 and (asked or isinstance(event, RetrievalEvent)):
            for entry in event.retrieved:
                found[entry.memory_id, entry.content] = None
    return tuple(content for _, content in found)


def relevance_item(events: Sequence[Event], task: Task) -> EntriesItem | None:
    """What a judge is asked; None (a relevance of 0) when nothing was retrieved."""
    entries = retrieved_contents(events)
    if not entries:
        return None
    return EntriesItem(task.query, task.answer, entries, task.supporting_facts, task.stale_facts)


def memory_item(trajectory: Trajectory) -> EntriesItem | None:
    """What a judge is asked about the final memory; None (an MQ of 0) without entries or facts."""
    entries, task = tuple(trajectory.memory.values()), trajectory.task
    if not entries or not task.supporting_facts:
        return None
    return EntriesItem(task.query, task.answer, entries, task.supporting_facts, task.stale_facts)


def memory_qualities(trajectories: Sequence[Trajectory], judge: Judge) -> list[float]:
    """MQ of each trajectory in [0, 1], by the judge, in one batch of questions."""
    items = [memory_item(trajectory) for trajectory in trajectories]
    scores = iter(judge.score_memories([item for item in items if item is not None]))
    return [0.0 if item is None else next(scores) for item in items]
