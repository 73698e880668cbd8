"""P_penalty: too many rounds, too many tokens (paper section 3.5, appendix A.2)."""

from collections.abc import Sequence

from agemem_jax.protocol.events import Event, OverflowEvent, RoundLimitEvent


def penalty(
    events: Sequence[Event], round_limit: float = -1.0, token_budget: float = -0.5
) -> float:
    """Sum of what applies: rounds over N_max, context over T_max; each at most once.

    An answer in the last allowed round leaves no `RoundLimitEvent`, and costs nothing.
    """
    value = 0.0
    if any(isinstance(event, RoundLimitEvent) for event in events):
        value += round_limit
    if any(isinstance(event, OverflowEvent) for event in events):
        value += token_budget
    return value
