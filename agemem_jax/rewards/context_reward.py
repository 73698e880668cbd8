"""R_context: the mean of compression, preventive and preservation (section 3.5, A.2).

Without an outcome of Stage 3 there is no context "when the answer is produced": compression
and preservation are 0 then. In an environment that context is the one of the last action.
"""

import dataclasses
from collections.abc import Sequence

from agemem_jax.protocol.events import Event, OutcomeEvent, OverflowEvent, ToolEvent
from agemem_jax.rewards import text_matching
from agemem_jax.rewards.judges import Judge
from agemem_jax.rewards.score import Score, mean_of
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class ContextReward:
    """R_context in [0, 1]."""

    def __call__(self, trajectory: Trajectory, judge: Judge) -> Score:
        del judge  # events say it all
        outcome, events = trajectory.outcome, trajectory.events
        return mean_of(
            compression=compression(outcome),
            preventive=preventive(events),
            preservation=preservation(outcome, trajectory.task.query),
        )


def compression(outcome: OutcomeEvent | None) -> float:
    """max(0, 1 - T_used / T_max), with T_used the prompt of the last action in tokens."""
    if outcome is None:
        return 0.0
    return max(0.0, 1.0 - outcome.context_tokens / outcome.max_context_tokens)


def preventive(events: Sequence[Event]) -> float:
    """1 if a summary or a filter made the context smaller before any overflow, else 0.

    A filter that matched nothing changed nothing and earns nothing.
    """
    for event in events:
        if isinstance(event, OverflowEvent):
            return 0.0
        if isinstance(event, ToolEvent) and event.effect == "reduced":
            return 1.0
    return 0.0


def preservation(outcome: OutcomeEvent | None, query: str) -> float:
    """1 if every key token of the query stands in the last action's context, else 0.

    The context is that of `OutcomeEvent.context_text`, so the query itself does not count.
    A query without key tokens has nothing to lose: 1.
    """
    if outcome is None:
        return 0.0
    present = {token.lower() for token in text_matching.tokens(outcome.context_text)}
    return float(text_matching.key_tokens(query) <= present)
