"""Utility of memory operations, after HiMPO (arXiv 2606.16285).

A memory operation is judged by what it did to the memory, not by what went wrong or right after
it: by how much of what the task needs can be recovered with and without it.
"""

import dataclasses

import numpy as np

from agemem_jax.rewards.judges import EntriesItem, Judge
from agemem_jax.training.credit.broadcast import broadcast
from agemem_jax.training.credit.rule import Credit, Episode, Group, Span
from agemem_jax.training.credit.steps import memory_operations, tokens_of_calls


@dataclasses.dataclass(frozen=True)
class MemoryUtility:
    """Adds the worth of a memory operation to A_k, on the tokens of its call.

    For operation i of rollout k, with M the memory before and M' behind it, and MQ the quality
    of a memory by the judge:

        u_i = MQ(M') - MQ(M)
        m_i = compare({u_j : all operations of the group})_i
        h_i = 1 where the outcome agrees with the sign of m_i: for m_i > 0 an outcome of the
              group's mean or better, for m_i < 0 one of the mean or worse; else `unsupported`
        A_{k,i} = A_k + weight * h_i * m_i       on the tokens of the call

    The outcome is R_task where the rewards have it, else R(τ). All other tokens have A_k.

    Follows the paper's account of itself: utility from what can be recovered, attenuated in
    hindsight where the outcome does not support it, applied to memory tokens alone. The outcome
    here is the episode's, not the relevance of an entry to it; the paper's memory is one text
    that every update rewrites, ours has operations on entries.

    Attributes:
      weight: of the added term.
      unsupported: h of an operation whose outcome says the contrary, in [0, 1].
    """

    weight: float = 1.0
    unsupported: float = 0.0

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError(f"weight is {self.weight}; it must be 0 or more.")
        if not 0.0 <= self.unsupported <= 1.0:
            raise ValueError(f"unsupported is {self.unsupported}; it must be in [0, 1].")

    def score_episode(self, episode: Episode, judge: Judge) -> list[tuple[float, Span]]:
        """u_i of each operation, and where its call was sampled (a span without a value)."""
        operations = memory_operations(episode.trajectory)
        task, states = episode.trajectory.task, [(), *(each.after for each in operations)]
        items = [
            EntriesItem(task.query, task.answer, state, task.supporting_facts, task.stale_facts)
            for state in states
        ]
        known = [bool(item.entries and item.supporting_facts) for item in items]
        asked = [item for item, ask in zip(items, known, strict=True) if ask]
        scores = iter(judge.score_memories(asked))
        qualities = [next(scores) if ask else 0.0 for ask in known]
        places = {id(event): place for place, event in enumerate(episode.trajectory.events)}
        tokens = tokens_of_calls(episode)
        return [
            (utility, Span(each.event.step, *tokens.get(places[id(each.event)], (0, 0)), 0.0))
            for utility, each in zip(np.diff(qualities).tolist(), operations, strict=True)
        ]

    def score_group(self, group: Group) -> list[Credit]:
        """A_k and what operations add; counts them, and those with an advantage that is kept."""
        outcomes = [e.reward.components.get("task", e.reward.total) for e in group.episodes]
        better = group.compare(outcomes)  # than the group's mean, by its sign
        utilities = [utility for episode in group.episodes for utility, _ in episode.score]
        compared = iter(group.compare(utilities))
        credits = []
        for episode, sign, steps in zip(group.episodes, better, broadcast(group), strict=True):
            values = [next(compared) for _ in episode.score]
            kept = [value * (1.0 if value * sign >= 0 else self.unsupported) for value in values]
            spans = [
                dataclasses.replace(span, value=float(self.weight * value))
                for value, (_, span) in zip(kept, episode.score, strict=True)
            ]
            credits.append(Credit(steps, spans))
            group.counts.update(operations=len(kept), credited=int(np.count_nonzero(kept)))
        return credits
