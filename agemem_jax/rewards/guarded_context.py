"""R_context, guarded: what editing for its own sake does not earn.

Deviates from the paper (section 3.5, A.2), whose formulas are in `context_reward`. There a
summary of one message at any time earns a third of the component, and repeating the words of the
query another one. Here

- compression is the paper's;
- preventive is at stake only where what the policy was *given* would have passed a share of the
  budget, and pays for what of that was removed, so that nobody is paid for filling a context in
  order to empty it;
- preservation is full unless an edit removed a key token of the query that is missing later; the
  policy's own responses do not bring it back.
"""

import dataclasses
from collections.abc import Sequence

from agemem_jax.protocol.events import Event, OutcomeEvent, OverflowEvent, ToolEvent
from agemem_jax.rewards import text_matching
from agemem_jax.rewards.context_reward import compression
from agemem_jax.rewards.judges import Judge
from agemem_jax.rewards.score import Score, mean_of
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class GuardedContext:
    """R_context in [0, 1]: the mean of compression, preservation and, if at stake, preventive.

    Attributes:
      pressure: the share of T_max from which what was given alone is much, in (0, 1]. The
        policy's own words and what it looks up come on top.
    """

    pressure: float = 0.5

    def __post_init__(self):
        if not 0 < self.pressure <= 1:
            raise ValueError(f"pressure is {self.pressure}; it must lie in (0, 1].")

    def __call__(self, trajectory: Trajectory, judge: Judge) -> Score:
        del judge  # events say it all
        outcome, events = trajectory.outcome, trajectory.events
        return mean_of(
            compression=compression(outcome),
            preventive=preventive(outcome, events, self.pressure),
            preservation=preservation(outcome, events, trajectory.task.query),
        )


def preventive(
    outcome: OutcomeEvent | None, events: Sequence[Event], pressure: float
) -> float | None:
    """How much of what would have passed the share of the budget was out of the last prompt.

        (given - kept) / (given - pressure T_max), held to [0, 1]

    with `given` and `kept` the tokens of `OutcomeEvent.given_tokens` and `kept_tokens`. Only
    edits of Stages 2 and 3 make `kept` smaller than `given`; a summary counts with its own
    length. 0 where the context overflowed in one of these stages; else None, which is no part of
    the mean, where `given` is within the share, or one of both is not known.
    """
    if any(isinstance(event, OverflowEvent) and event.stage > 1 for event in events):
        return 0.0
    if outcome is None or outcome.given_tokens is None or outcome.kept_tokens is None:
        return None
    excess = outcome.given_tokens - pressure * outcome.max_context_tokens
    if excess <= 0:
        return None
    return min(1.0, max(0.0, (outcome.given_tokens - outcome.kept_tokens) / excess))


def preservation(outcome: OutcomeEvent | None, events: Sequence[Event], query: str) -> float:
    """0 if a key token of the query was removed and is missing, else 1.

    Removed is what stood in a message that a call of Stage 2 or 3 took out of the context, and
    missing what stands in no message of the last action's context: neither the query nor the
    policy's responses count, its summaries and what it retrieved do. Without an outcome 0.
    """
    if outcome is None:
        return 0.0
    removed = _words(
        text
        for event in events
        if isinstance(event, ToolEvent) and event.ok and event.stage > 1
        for text in event.removed
    )
    shown = outcome.context_text if outcome.shown_text is None else outcome.shown_text
    return float(text_matching.key_tokens(query) & removed <= _words([shown]))


def _words(texts) -> frozenset[str]:
    return frozenset(token.lower() for text in texts for token in text_matching.tokens(text))
