"""Every text that the policy is shown and did not write itself.

Contexts are paid for by the token, so all of it is terse. What judges are asked is not
here but in `rewards`.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from agemem_jax.protocol.events import RetrievedEntry, ToolEvent
from agemem_jax.protocol.tools import TOOL_NAMES, ToolSpec, compact_schemas, select, tool_schemas

STYLES = ("full", "compact")


def system_prompt(style: str = "full", tools: Sequence[str] = TOOL_NAMES) -> str:
    """States the protocol, lists the tools and gives one example (section 3.2).

    Args:
      style: "full" with JSON schemas, or "compact" for small models, about 70 words.
      tools: names of the tools on offer; without any, the prompt asks for answers only.

    Raises:
      ValueError: for an unknown style or tool.
    """
    if style not in STYLES:
        raise ValueError(f"The prompt style must be one of {', '.join(STYLES)}, not {style!r}.")
    specs = select(tools)
    if not specs:
        return _NO_TOOLS
    return _full(specs) if style == "full" else _compact(specs)


_NO_TOOLS = (
    "Answer the question at the end.\n"
    "Reply with <think>a short thought</think><answer>text</answer> and nothing else.\n"
    "Example: <think>Ana said so.</think><answer>Rome</answer>"
)


_ADVICE = {
    "LTM": "Long-term memory: store facts worth keeping, one per memory; correct or delete those "
    "that a later message makes untrue.",
    "STM": "Conversation: remove or summarise what no longer helps, before it grows too long.",
}


def _compact(specs: tuple[ToolSpec, ...]) -> str:
    return (
        "Messages come first, a question at the end. Only stored facts last.\n"
        "Reply <think>thought</think>, then <tool_call>[calls]</tool_call> or "
        "<answer>text</answer>. Nothing else.\n"
        f"Tools:\n{compact_schemas([spec.name for spec in specs])}\n"
        f"Example: <think>A new fact.</think>{_example_call(specs[0])}"
    )


def _full(specs: tuple[ToolSpec, ...]) -> str:
    advice = [_ADVICE[target] for target in _ADVICE if target in {s.target for s in specs}]
    schemas = "\n".join(json.dumps(s["function"]) for s in tool_schemas([s.name for s in specs]))
    return f"""\
You are an assistant that looks after its own memory. A conversation comes first; its facts \
may matter later and may change. Then the conversation is cleared: what you did not store in \
long-term memory is gone. Unrelated messages may follow. At the end comes a question, which you \
answer from what you stored and what is still in the conversation.

Every reply has two parts and no text outside the tags:
1. <think>your reasoning, short</think>
2. exactly one of
   <tool_call>[{{"name": "...", "arguments": {{...}}}}, ...]</tool_call>
   <answer>your answer</answer>

<tool_call> holds a JSON array of one or more calls; their results come in the next message. \
While the conversation runs, an <answer> is a brief reply that ends your turn. To the question, \
<answer> is final: only the name, number, date, yes or no that was asked for.

{" ".join(advice)}

Tools, as JSON schemas:
{schemas}

Example of a reply:
<think>This is a new fact that may be asked for later.</think>
{_example_call(specs[0])}"""


def _example_call(spec: ToolSpec) -> str:
    return tool_call_text([(spec.name, dict(spec.example))])


def tool_call_text(calls: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """Calls as a well-behaved policy writes them."""
    listed = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return f"<tool_call>{json.dumps(listed, ensure_ascii=False)}</tool_call>"


def summary_prompt() -> str:
    """System message of the generation in which the policy writes a summary."""
    return (
        "Summarise the messages in a few plain sentences. Keep facts, names, numbers, "
        "intentions, decisions and open questions. No greetings, no filler, no tags."
    )


def summary_text(summary: str) -> str:
    """The message that takes the place of summarised ones."""
    return f"Summary: {summary}"


def query_text(query: str) -> str:
    """The message that asks the task's question (Stage 3)."""
    return f"Question: {query}"


def task_message_text(message: str, retrieved: Sequence[RetrievedEntry]) -> str:
    """A message with what was retrieved for it; the message alone when that is nothing."""
    return f"{message}\n{memories_text(retrieved)}" if retrieved else message


def memories_text(entries: Sequence[RetrievedEntry]) -> str:
    """Retrieved entries, one line each whatever they contain; best first."""
    lines = [f"- {entry.memory_id}: {' '.join(entry.content.split())}" for entry in entries]
    return "\n".join(("Memories:", *lines)) if lines else "No memories."


def error_text(error: str) -> str:
    """What the policy reads when it did something wrong."""
    return f"Error: {error}"


def tool_result_text(event: ToolEvent) -> str:
    """What the policy reads after a tool call."""
    if not event.ok:
        return error_text(event.error or f"{event.name} failed.")
    match event.name:
        case "Add_memory":
            return f"Added {event.memory_id}."
        case "Update_memory":
            return f"Updated {event.memory_id}."
        case "Delete_memory":
            return f"Deleted {event.memory_id}."
        case "Retrieve_memory":
            return memories_text(event.retrieved)
        case "Summary_context":
            return "Summarised."
        case "Filter_context":
            count = event.content or "0"
            return f"Removed {count} {'message' if count == '1' else 'messages'}."
    return "Done."
