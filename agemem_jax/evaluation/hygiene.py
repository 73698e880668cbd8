"""How clean a memory is at the end: junk, duplicates, contradictions, what deletions leave behind.

Offline, by what the tasks say is true (`text_matching.states`). Facts are those of all evaluated
tasks that tell the same history, so that an entry for another question about it is no junk.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from agemem_jax.protocol.events import Event
from agemem_jax.rewards import text_matching
from agemem_jax.rollout.memory_changes import memory_changes
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task

_FROM = 0.8  # share of an entry's content words that a message has it was taken from
_GOLD = "the fact itself"


@dataclasses.dataclass(frozen=True)
class History:
    """What is known of a history.

    Attributes:
      gold: facts that hold at its end.
      stale: facts that no longer hold.
    """

    gold: tuple[str, ...]
    stale: tuple[str, ...]

    @functools.cached_property
    def corrections(self) -> dict[str, str]:
        """The gold fact that took the place of a stale one: that which shares most words with it.

        None for one that shares less than half of the stale fact's words with any.
        """
        found = {}
        for stale in self.stale:
            words = text_matching.content_words(stale)
            shared = {
                fact: len(words & text_matching.content_words(fact)) / max(1, len(words))
                for fact in self.gold
            }
            best = max(shared, key=shared.get, default=None)
            if best is not None and shared[best] >= 0.5:
                found[stale] = best
        return found


@dataclasses.dataclass(frozen=True)
class Entry:
    """What an entry says.

    Attributes:
      says: gold and stale facts.
      values: by gold fact, what the entry puts for it: itself, a stale fact, another value
        (`text_matching.rival_values`), or its denial.
    """

    says: frozenset[str]
    values: Mapping[str, frozenset[str]]

    @property
    def is_untrue(self) -> bool:
        return any(values - {_GOLD} for values in self.values.values())


def hygiene_rows(trajectories: Sequence[Trajectory]) -> list[dict[str, float | None]]:
    """The state of each trajectory's final memory; nothing where its task has no facts.

    Returns:
      `memory_entries`, their number, and of them the shares, None of an empty memory:
      `memory_junk`, that say no fact of the history, neither a gold nor a stale one;
      `memory_distractors`, junk that was taken from a message of Stage 2;
      `memory_duplicates`, that say no fact which one other entry does not say, too (of two that
      say the same, the later one), or, of junk, that repeat an earlier entry word for word;
      `memory_stale`, that say what no longer holds, or never did;
      `memory_contradictions`, that put another value for a relation than another entry, or
      a second one themselves: a stale fact beside its correction;
      `memory_left`, of all facts that deleted entries said, the share that another entry still
      said right after the deletion; None where none was deleted that said any.
    """
    histories = histories_of([trajectory.task for trajectory in trajectories])
    return [
        _row(trajectory, histories[_key(trajectory.task)])
        if histories[_key(trajectory.task)].gold
        else {}
        for trajectory in trajectories
    ]


def histories_of(tasks: Sequence[Task]) -> dict[tuple[str, ...], History]:
    """What is known of each history, by its messages: the facts of all tasks that tell it."""
    gold: dict[tuple[str, ...], dict[str, None]] = {}
    stale: dict[tuple[str, ...], dict[str, None]] = {}
    for task in tasks:
        gold.setdefault(_key(task), {}).update(dict.fromkeys(task.supporting_facts))
        stale.setdefault(_key(task), {}).update(dict.fromkeys(task.stale_facts))
    return {key: History(tuple(gold[key]), tuple(stale[key])) for key in gold}


def _key(task: Task) -> tuple[str, ...]:
    """Tasks without messages tell no history in common."""
    return task.messages or (task.task_id,)


@functools.lru_cache(maxsize=16_384)
def read_entry(content: str, history: History) -> Entry:
    """What an entry says of a history."""
    says, values = set(), {}
    for fact in history.gold:
        found = set(text_matching.rival_values(content, fact))
        if text_matching.states(content, fact):
            says.add(fact)
            found.add(_GOLD)
        elif not found and text_matching.denies(content, fact):
            found = {"denied"}
        if found:
            values[fact] = found
    for fact in history.stale:
        if text_matching.states_stale(content, history.gold, (fact,)):
            says.add(fact)
            if fact in history.corrections:
                corrected = values.setdefault(history.corrections[fact], set())
                # A rival value and the stale fact that has it are one.
                corrected -= text_matching.content_words(fact)
                corrected.add(fact)
    return Entry(frozenset(says), {fact: frozenset(each) for fact, each in values.items()})


def _row(trajectory: Trajectory, history: History) -> dict[str, float | None]:
    contents = list(trajectory.memory.values())
    entries = [read_entry(content, history) for content in contents]
    shares = {
        "junk": [not entry.says and not entry.is_untrue for entry in entries],
        "distractors": [
            not entry.says and not entry.is_untrue and _is_distractor(content, trajectory.task)
            for content, entry in zip(contents, entries, strict=True)
        ],
        "duplicates": [_is_duplicate(place, contents, entries) for place in range(len(entries))],
        "stale": [entry.is_untrue or bool(entry.says & set(history.stale)) for entry in entries],
        "contradictions": [_contradicts(place, entries) for place in range(len(entries))],
    }
    return {
        "memory_entries": float(len(entries)),
        **{
            f"memory_{name}": sum(found) / len(found) if found else None
            for name, found in shares.items()
        },
        "memory_left": left_behind(trajectory.events, history),
    }


def _is_distractor(content: str, task: Task) -> bool:
    words = text_matching.content_words(content)
    if not words:
        return False

    def most(messages: Sequence[str]) -> float:
        shares = (len(words & text_matching.content_words(m)) / len(words) for m in messages)
        return max(shares, default=0.0)

    return most(task.distractors) >= _FROM and most(task.distractors) > most(task.messages)


def _is_duplicate(place: int, contents: Sequence[str], entries: Sequence[Entry]) -> bool:
    says = entries[place].says
    if not says:
        plain = " ".join(contents[place].lower().split())
        return any(" ".join(other.lower().split()) == plain for other in contents[:place])
    return any(
        says < other.says or (says == other.says and number < place)
        for number, other in enumerate(entries)
        if number != place
    )


def _contradicts(place: int, entries: Sequence[Entry]) -> bool:
    for fact, values in entries[place].values.items():
        others = [other.values.get(fact) for n, other in enumerate(entries) if n != place]
        if len(values) > 1 or any(other and other != values for other in others):
            return True
    return False


def left_behind(events: Sequence[Event], history: History) -> float | None:
    """Of the facts of deleted entries, the share that another entry said right behind each."""
    deleted = left = 0
    for event, memory in memory_changes(events):
        if event.effect == "deleted" and event.previous is not None:
            gone = read_entry(event.previous, history).says
            still = frozenset().union(*(read_entry(c, history).says for c in memory.values()))
            deleted, left = deleted + len(gone), left + len(gone & still)
    return left / deleted if deleted else None
