"""What is judged and by whom: the interface, and the judge that needs no model.

Every method takes a batch and gives one score in [0, 1] per item, in order. Rewards
build the items from recorded events.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from agemem_jax.rewards import text_matching


@dataclasses.dataclass(frozen=True)
class AnswerItem:
    """The answer to a task's question beside the expected one (R_task, J)."""

    question: str
    expected: str
    answer: str


@dataclasses.dataclass(frozen=True)
class StorageItem:
    """One entry that Stage 1 stored, and what it should help to answer (R_memory)."""

    question: str
    expected: str
    entry: str
    supporting_facts: tuple[str, ...]
    stale_facts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class EntriesItem:
    """Several entries together: those retrieved (relevance) or those stored (MQ)."""

    question: str
    expected: str
    entries: tuple[str, ...]
    supporting_facts: tuple[str, ...]
    stale_facts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Questions:
    """What a reward component will ask a judge about one trajectory."""

    answers: tuple[AnswerItem, ...] = ()
    storage: tuple[StorageItem, ...] = ()
    relevance: tuple[EntriesItem, ...] = ()


class Judge(Protocol):
    """Scores batches of `items`, one score for each, in [0, 1]."""

    def score_answers(self, items: Sequence[AnswerItem]) -> list[float]:
        """How right each answer is."""
        ...

    def score_storage(self, items: Sequence[StorageItem]) -> list[float]:
        """How useful and true each entry is."""
        ...

    def score_relevance(self, items: Sequence[EntriesItem]) -> list[float]:
        """How well each set of retrieved entries serves its question."""
        ...

    def score_memories(self, items: Sequence[EntriesItem]) -> list[float]:
        """How well each memory holds the supporting facts (MQ)."""
        ...

    def answer_scorers(self) -> dict[str, Callable[[Sequence[AnswerItem]], list[float]]]:
        """Every way in which it scores answers, by name; the first is `score_answers`."""
        ...

    def description(self) -> dict[str, Any]:
        """What its figures depend on, as JSON: `model`, and `prompts` with `id` and `text`."""
        ...

    def ask_ahead(
        self,
        answers: Sequence[AnswerItem] = (),
        storage: Sequence[StorageItem] = (),
        relevance: Sequence[EntriesItem] = (),
    ) -> None:
        """Hears what it will be asked later, and may begin; never waits, changes no score.

        Args:
          answers, storage, relevance: as of `score_answers`, `score_storage`, `score_relevance`.
        """
        ...

    def take_counts(self) -> dict[str, int]:
        """What became of the questions since this was last called, by name."""
        ...


class OfflineJudge:
    """Exact match and F1 for answers, the data set's facts for memories. No state."""

    def score_answers(self, items: Sequence[AnswerItem]) -> list[float]:
        """1 for an exact match, else the token F1 (HotpotQA's normalisation for both)."""
        return [
            text_matching.exact_match(item.answer, item.expected)
            or text_matching.answer_f1(item.answer, item.expected)
            for item in items
        ]

    def answer_scorers(self) -> dict[str, Callable[[Sequence[AnswerItem]], list[float]]]:
        return {"offline": self.score_answers}

    def description(self) -> dict[str, Any]:
        """A rule in place of a prompt; it is its own id."""
        text = inspect.cleandoc(self.score_answers.__doc__)
        return {"model": None, "prompts": {"offline": {"id": "rule", "text": text}}}

    def score_storage(self, items: Sequence[StorageItem]) -> list[float]:
        """1 for an entry that says a supporting fact and no stale one, else 0."""
        return [
            float(
                text_matching.is_high_quality(item.entry, item.supporting_facts, item.stale_facts)
            )
            for item in items
        ]

    def score_relevance(self, items: Sequence[EntriesItem]) -> list[float]:
        """F1 of precision and recall, see `retrieval_f1`."""
        return [
            retrieval_f1(item.entries, item.supporting_facts, item.stale_facts) for item in items
        ]

    def score_memories(self, items: Sequence[EntriesItem]) -> list[float]:
        """See `memory_quality`."""
        return [
            memory_quality(item.entries, item.supporting_facts, item.stale_facts) for item in items
        ]

    def ask_ahead(
        self,
        answers: Sequence[AnswerItem] = (),
        storage: Sequence[StorageItem] = (),
        relevance: Sequence[EntriesItem] = (),
    ) -> None:
        """Nothing: scores cost no time."""

    def take_counts(self) -> dict[str, int]:
        """Nothing: every question is answered, and by the same rule."""
        return {}


def retrieval_f1(
    entries: Sequence[str], supporting_facts: Sequence[str], stale_facts: Sequence[str] = ()
) -> float:
    """Harmonic mean of precision and recall; 0 without entries or facts.

    Precision is the share of the entries that say a supporting fact and no stale one,
    recall the share of the supporting facts that such an entry says.
    """
    good = [
        entry
        for entry in entries
        if text_matching.is_high_quality(entry, supporting_facts, stale_facts)
    ]
    if not good:
        return 0.0
    covered = frozenset().union(
        *(text_matching.covered_facts(entry, supporting_facts) for entry in good)
    )
    precision, recall = len(good) / len(entries), len(covered) / len(supporting_facts)
    return 2 * precision * recall / (precision + recall)


def memory_quality(
    memory: Mapping[str, str] | Sequence[str],
    supporting_facts: Sequence[str],
    stale_facts: Sequence[str] = (),
) -> float:
    """MQ offline: supporting facts that the memory holds over (all of them + stale ones held).

    1 when every supporting fact is stored and no stale fact is; entries that are beside
    the point change nothing (`retrieval_f1` and storage charge for those).

    Args:
      memory: the stored contents, by id or in any order.
      supporting_facts: the gold facts; without any the quality is 0.
      stale_facts: what later messages made untrue.
    """
    entries = list(memory.values()) if isinstance(memory, Mapping) else list(memory)
    covered = sum(
        any(text_matching.states(entry, fact) for entry in entries) for fact in supporting_facts
    )
    stale = sum(
        any(text_matching.states_stale(entry, supporting_facts, (fact,)) for entry in entries)
        for fact in stale_facts
    )
    return covered / max(1, len(supporting_facts) + stale)
