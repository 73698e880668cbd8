"""The two tools of the context C_t (paper section 3.2, appendix A.1).

Neither touches the system message, the goal, or the call itself.
"""

import re
from collections.abc import Mapping
from typing import Any

from agemem_jax.protocol import prompts
from agemem_jax.protocol.messages import Context, Kind
from agemem_jax.protocol.tools import Parameter, ToolError, ToolResult, ToolSpec, shown
from agemem_jax.rollout.requests import SimilarityRequest
from agemem_jax.rollout.tool_use import Play, ToolUse

_MAX_SPAN = 1_000_000


def _editable(episode: ToolUse) -> list[int]:
    """Messages a context tool may touch: all but pinned ones and the call itself."""
    messages = episode.context.messages
    return [i for i, m in enumerate(messages) if not m.pinned and i != len(messages) - 1]


def _filter(episode: ToolUse, arguments: Mapping[str, Any]) -> Play:
    """Removes the messages whose similarity to `criteria` is at least θ."""
    candidates = _editable(episode)
    texts = tuple(episode.context.messages[i].text for i in candidates)
    scores = (yield SimilarityRequest(texts, arguments["criteria"])) if texts else []
    removed = frozenset(
        index
        for index, score in zip(candidates, scores, strict=True)
        if score >= episode.config.filter_threshold
    )
    episode.context = episode.context.without(removed)
    count = len(removed)
    text = f"Removed {count} {'message' if count == 1 else 'messages'}."
    return ToolResult(text, effect="reduced" if removed else None)


def _summarise(episode: ToolUse, arguments: Mapping[str, Any]) -> Play:
    """Replaces messages by a summary that the policy writes as a step of its own."""
    candidates = _editable(episode)
    if arguments["span"] != "all":
        candidates = candidates[-int(arguments["span"]) :]
    if not candidates:
        return ToolResult("There is no message to summarise.", ok=False)
    config, chat = episode.config, episode.chat
    chosen = Context(tuple(episode.context.messages[i] for i in candidates))
    prompt = Context(
        (
            chat.message("system", prompts.summary_prompt(), Kind.SYSTEM),
            chat.message("user", chosen.text, Kind.TASK_MESSAGE),
        )
    )
    room = config.max_context_tokens - len(chat.generation_prompt)
    if prompt.num_tokens > room:
        error = f"Choose fewer messages: these take {prompt.num_tokens} tokens at once."
        return ToolResult(error, ok=False)
    limit = config.max_summaries
    if episode.summaries >= limit:
        written = "summary is" if limit == 1 else "summaries are"
        return ToolResult(f"Only {limit} {written} written for one reply.", ok=False)
    episode.summaries += 1
    written = yield from episode.generate(prompt, config.max_summary_tokens, "summary")
    text = written.text.strip()
    if not text:
        return ToolResult("The summary was empty.", ok=False)
    summary = chat.message("user", prompts.summary_text(text), Kind.SUMMARY)
    episode.context = episode.context.replace(frozenset(candidates), summary)
    return ToolResult("Summarised.", effect="reduced", content=text)


def _read_span(value: Any) -> str:
    """ "all", or a number of messages as text; the paper's own examples say "full"."""
    if isinstance(value, str):
        text = value.strip().lower()
        if text in ("all", "full"):
            return "all"
        if re.fullmatch(r"0*[1-9][0-9]{0,6}", text) and int(text) <= _MAX_SPAN:
            return str(int(text))
    elif isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_SPAN:
        return str(value)
    raise ToolError(
        'span of Summary_context must be "all" or a number of messages such as "4", '
        f"not {shown(value)}."
    )


SUMMARY = ToolSpec(
    name="Summary_context",
    target="STM",
    parameters=(
        Parameter(
            "span", str, True, '"all", or how many of the latest messages, such as "4".',
            read=_read_span,
        ),
    ),
    description="Replaces messages of the conversation by a summary that you write next.",
    summary='shorten messages; span is "all" or a number',
    example={"span": "all"},
    handler=_summarise,
)  # fmt: skip
FILTER = ToolSpec(
    name="Filter_context",
    target="STM",
    parameters=(Parameter("criteria", str, True, "What the unwanted messages are about."),),
    description="Removes the messages of the conversation that resemble the criteria.",
    summary="drop messages about this",
    example={"criteria": "small talk about the weather"},
    handler=_filter,
)
