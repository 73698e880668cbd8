"""R_memory, guarded: what storing and editing for its own sake does not earn.

Deviates from the paper (section 3.5, A.2), whose formulas are in `memory_reward`. There one fact
stored five times is five good entries, dummies of Stages 2 and 3 cost nothing, and any edit, such
as a full stop, earns a third of the component. Here

- storage counts distinct facts over the entries added in all stages;
- maintenance is at stake only where an entry was, or came to be, untrue, or a good one was lost;
- relevance is the paper's.
"""

import dataclasses
from collections.abc import Sequence

from agemem_jax.protocol.events import Event, ToolEvent
from agemem_jax.rewards import text_matching
from agemem_jax.rewards.judges import Judge
from agemem_jax.rewards.memory_reward import MemoryReward, stage1_entries
from agemem_jax.rewards.score import Score, mean_of
from agemem_jax.rollout.memory_changes import memory_changes
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class GuardedMemory(MemoryReward):
    """R_memory in [0, 1]: the mean of storage, relevance and, if at stake, maintenance.

    Asks the judge what the paper's asks. Which fact an entry says, and what is untrue, is read by
    the rules of `text_matching`, whoever judges.
    """

    def __call__(self, trajectory: Trajectory, judge: Judge) -> Score:
        asked, events, task = self.questions(trajectory), trajectory.events, trajectory.task
        scores = iter(judge.score_storage(asked.storage))
        relevance = judge.score_relevance(asked.relevance)
        good = [
            entry
            for entry in stage1_entries(events)
            if entry is not None and next(scores) >= self.high_quality
        ]
        return mean_of(
            storage=storage(good, added(events), task.supporting_facts),
            maintenance=maintenance(events, task),
            relevance=relevance[0] if relevance else 0.0,
        )


def added(events: Sequence[Event]) -> int:
    """N_total: the entries that were added in any stage, whatever became of them."""
    return sum(isinstance(event, ToolEvent) and event.effect == "added" for event in events)


def storage(good: Sequence[str], total: int, facts: Sequence[str]) -> float:
    """N_distinct / max(1, N_total).

    Args:
      good: the high-quality entries as Stage 1 left them, in order of adding. One is distinct if
        it says a fact that none before it says; one that says none by `text_matching`, which
        only a model may have found good, if none before it has the same words.
      total: see `added`.
      facts: the gold facts.
    """
    known: set[int | str] = set()
    distinct = 0
    for entry in good:
        brought = text_matching.covered_facts(entry, facts)
        brought = brought or {text_matching.normalise_answer(entry)}
        distinct += not brought <= known
        known |= brought
    return distinct / max(1, total)


def maintenance(events: Sequence[Event], task: Task) -> float | None:
    """max(0, N_mended - N_lost) / max(1, N_mended + N_open).

    - mended: stale facts that an entry said and none says at the end, right or gone;
    - open: stale facts that an entry says at the end, and gold facts that one denies then;
    - lost: gold facts that an entry said and none says at the end, which takes a delete or an
      update.

    An untrue entry that the policy made up itself and took back mends nothing. None, which is no
    part of the mean, where all three are 0.
    """
    gold, stale = task.supporting_facts, task.stale_facts
    was_stale: set[str] = set()
    was_said: set[str] = set()
    memory: dict[str | None, str] = {}
    for _, memory in memory_changes(events):
        was_stale |= _said_stale(memory, task)
        was_said |= {fact for fact in gold if _says(memory, fact)}
    left = {fact for fact in stale if fact in _said_stale(memory, task)}
    denied = [f for f in gold if any(text_matching.denies(e, f) for e in memory.values())]
    mended, still_open = len(was_stale - left), len(left) + len(denied)
    lost = sum(not _says(memory, fact) for fact in was_said)
    if not mended + still_open + lost:
        return None
    return max(0, mended - lost) / max(1, mended + still_open)


def _said_stale(memory: dict[str | None, str], task: Task) -> set[str]:
    gold = task.supporting_facts
    return {
        fact
        for fact in task.stale_facts
        if any(text_matching.states_stale(entry, gold, (fact,)) for entry in memory.values())
    }


def _says(memory: dict[str | None, str], fact: str) -> bool:
    return any(text_matching.states(entry, fact) for entry in memory.values())
