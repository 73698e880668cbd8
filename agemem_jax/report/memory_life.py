"""The life of each memory: when it was stored, changed, looked up and deleted, and what it says.

All of it is read from events, so that a call that failed leaves no mark.
"""

import dataclasses
from collections.abc import Sequence

from agemem_jax.protocol.events import Event, RetrievalEvent, ToolEvent
from agemem_jax.rewards import text_matching
from agemem_jax.rollout.memory_changes import memory_changes
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Mark:
    """Something that happened to an entry.

    Attributes:
      step: of the response with the call, or, for what was shown unasked, the step that saw it.
      what: "added", "updated", "deleted", "retrieved", or "shown" where no call asked for it.
      score: cosine similarity to the query, of a retrieval.
    """

    step: int
    what: str
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Version:
    """A text that an entry held.

    Attributes:
      step: from which on.
      text: the content.
      facts: places of the task's supporting facts that it says, by `rewards.text_matching`.
      stale: whether it says what is no longer true.
    """

    step: int
    text: str
    facts: Sequence[int]
    stale: bool


@dataclasses.dataclass
class Life:
    """One entry.

    Attributes:
      memory_id: its id.
      marks: what happened to it, in order.
      versions: what it held, oldest first.
      ended: the step that deleted it; None where it stayed.
    """

    memory_id: str
    marks: list[Mark] = dataclasses.field(default_factory=list)
    versions: list[Version] = dataclasses.field(default_factory=list)
    ended: int | None = None

    @property
    def begun(self) -> int:
        return self.marks[0].step


def lives(trajectory: Trajectory) -> list[Life]:
    """The entries of an episode in the order in which they appeared.

    Entries that were there before the episode appear when they are first retrieved.
    """
    found: dict[str, Life] = {}
    changes = {id(event) for event, _ in memory_changes(trajectory.events)}
    for event in trajectory.events:
        if id(event) in changes:
            life = found.setdefault(event.memory_id, Life(event.memory_id))
            life.marks.append(Mark(event.step, event.effect))
            if event.effect == "deleted":
                life.ended = event.step
            else:
                life.ended = None
                life.versions.append(_version(trajectory.task, event.step, event.content or ""))
        for entry, what in _retrieved(event):
            life = found.setdefault(entry.memory_id, Life(entry.memory_id))
            if not life.versions:
                life.versions.append(_version(trajectory.task, event.step, entry.content))
            life.marks.append(Mark(event.step, what, entry.score))
    return list(found.values())


def _retrieved(event: Event):
    if isinstance(event, RetrievalEvent):
        return [(entry, "shown") for entry in event.retrieved]
    if isinstance(event, ToolEvent) and event.ok:
        return [(entry, "retrieved") for entry in event.retrieved]
    return []


def _version(task: Task, step: int, text: str) -> Version:
    gold = task.supporting_facts
    return Version(
        step=step,
        text=text,
        facts=sorted(text_matching.covered_facts(text, gold)),
        stale=bool(task.stale_facts) and text_matching.states_stale(text, gold, task.stale_facts),
    )
