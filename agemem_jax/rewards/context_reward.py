"""R_context: the mean of compression, preventive and preservation (section 3.5, A.2).

Without a Stage 3 answer there is no context "when the answer is produced": compression
and preservation are 0 then.
"""

from collections.abc import Sequence

from agemem_jax.protocol.events import AnswerEvent, Event, OverflowEvent, ToolEvent
from agemem_jax.rewards import text_matching

REDUCING_TOOLS = frozenset({"Summary_context", "Filter_context"})


def compression(answer: AnswerEvent | None, max_context_tokens: int) -> float:
    """max(0, 1 - T_used / T_max), with T_used the prompt of the answer in tokens."""
    if answer is None:
        return 0.0
    return max(0.0, 1.0 - answer.context_tokens / max_context_tokens)


def preventive(events: Sequence[Event]) -> float:
    """1 if a summary or a filter made the context smaller before any overflow, else 0.

    A filter that matched nothing changed nothing and earns nothing.
    """
    for event in events:
        if isinstance(event, OverflowEvent):
            return 0.0
        if (
            isinstance(event, ToolEvent)
            and event.name in REDUCING_TOOLS
            and event.ok
            and event.changed
        ):
            return 1.0
    return 0.0


def preservation(answer: AnswerEvent | None, query: str) -> float:
    """1 if every key token of the query stands in the answer's context, else 0.

    The context is that of `AnswerEvent.context_text`, so the query itself does not count.
    A query without key tokens has nothing to lose: 1.
    """
    if answer is None:
        return 0.0
    present = {token.lower() for token in text_matching.tokens(answer.context_text)}
    return float(text_matching.key_tokens(query) <= present)
