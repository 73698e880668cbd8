"""Every text that the policy is shown and did not write itself.

Contexts are paid for by the token, so all of it is terse. What judges are asked is not
here but in `rewards`.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from agemem_jax.protocol.events import RetrievedEntry
from agemem_jax.protocol.tools import ToolSpec, ToolTable

STYLES = ("full", "compact")


def system_prompt(style: str, tools: ToolTable) -> str:
    """States the protocol, lists the tools and gives one example (section 3.2).

    Where one of the tools acts in an environment, the prompt announces that instead of a
    question.

    Args:
      style: "full" with JSON schemas, or "compact" for small models, about 70 words.
      tools: those on offer; without any, the prompt asks for answers only.

    Raises:
      ValueError: for an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"The prompt style must be one of {', '.join(STYLES)}, not {style!r}.")
    if not tools.specs:
        return _NO_TOOLS
    acts = any(spec.target == "environment" for spec in tools.specs)
    return (_full if style == "full" else _compact)(tools, acts)


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


def _compact(tools: ToolTable, acts: bool) -> str:
    end = "a goal to act for" if acts else "a question"
    lasts = " Only stored facts last." if _stores(tools) else ""
    return (
        f"Messages come first, {end} at the end.{lasts}\n"
        "Reply <think>thought</think>, then <tool_call>[calls]</tool_call> or "
        "<answer>text</answer>. Nothing else.\n"
        f"Tools:\n{tools.compact_schemas()}\n"
        f"Example: <think>A new fact.</think>{_example_call(tools.specs[0])}"
    )


def _stores(tools: ToolTable) -> bool:
    """Whether the policy can keep something by itself."""
    return any(spec.target == "LTM" and spec.name != "Retrieve_memory" for spec in tools.specs)


_OWN_MEMORY = (
    "You are an assistant that looks after its own memory. A conversation comes first; its facts "
    "may matter later and may change. Then the conversation is cleared: what you did not store in "
    "long-term memory is gone."
)
_NO_OWN_MEMORY = (
    "You are a helpful assistant. A conversation may come first; its facts may matter later and "
    "may change."
)
_GIVEN_QUESTION = (
    "At the end comes a question, which you answer from the conversation and from what you look up."
)
_GIVEN_GOAL = (
    "At the end comes a goal in an environment, which you reach by one action after the other; "
    "you are told what you see after each."
)
_QUESTION = (
    "At the end comes a question, which you answer from what you stored and what is still in the "
    "conversation."
)
_GOAL = (
    "At the end comes a goal in an environment, which you reach by one action after the other; "
    "you are told what you see after each, and what you stored may help."
)
_TO_QUESTION = (
    "To the question, <answer> is final: only the name, number, date, yes or no that was asked for."
)
_TO_GOAL = "In the environment an <answer> does nothing: act until it ends."


def _full(tools: ToolTable, acts: bool) -> str:
    targets = {spec.target for spec in tools.specs}
    advice = " ".join(text for target, text in _ADVICE.items() if target in targets)
    schemas = "\n".join(json.dumps(schema["function"]) for schema in tools.schemas())
    opening = _OWN_MEMORY if _stores(tools) else _NO_OWN_MEMORY
    goal, question = (_GOAL, _QUESTION) if _stores(tools) else (_GIVEN_GOAL, _GIVEN_QUESTION)
    return f"""\
{opening} Unrelated messages may follow. {goal if acts else question}

Every reply has two parts and no text outside the tags:
1. <think>your reasoning, short</think>
2. exactly one of
   <tool_call>[{{"name": "...", "arguments": {{...}}}}, ...]</tool_call>
   <answer>your answer</answer>

<tool_call> holds a JSON array of one or more calls; their results come in the next message. \
While the conversation runs, an <answer> is a brief reply that ends your turn. \
{_TO_GOAL if acts else _TO_QUESTION}

{advice}

Tools, as JSON schemas:
{schemas}

Example of a reply:
<think>This is a new fact that may be asked for later.</think>
{_example_call(tools.specs[0])}"""


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


_ACTIONS = 60  # of an environment that lists a thousand, contexts hold no more


def goal_text(*instructions: str) -> str:
    """The message that gives the goal of an environment (Stage 3)."""
    text = "\n".join(text for text in instructions if text)
    return text if text.startswith("Goal:") else f"Goal: {text}"


def actions_text(actions: Sequence[str]) -> str:
    """What can be done in an environment now, asked for by the policy."""
    if not actions:
        return "There is nothing to do."
    more = f", and {len(actions) - _ACTIONS} more" if len(actions) > _ACTIONS else ""
    return f"Actions: {', '.join(actions[:_ACTIONS])}{more}"


def task_message_text(message: str, retrieved: Sequence[RetrievedEntry]) -> str:
    """A message with what was retrieved for it; the message alone when that is nothing."""
    return f"{message}\n{memories_text(retrieved)}" if retrieved else message


def examples_text(examples: Sequence[str]) -> str:
    """Earlier tasks as a method shows them in front of the goal, best first."""
    return "\n".join(("Earlier tasks:", *examples))


def memories_text(entries: Sequence[RetrievedEntry]) -> str:
    """Retrieved entries, one line each whatever they contain; best first."""
    lines = [f"- {entry.memory_id}: {' '.join(entry.content.split())}" for entry in entries]
    return "\n".join(("Memories:", *lines)) if lines else "No memories."


def context_use_text(used: int, budget: int) -> str:
    """The line that tells the policy how full its context is, in tokens."""
    return f"Context: {used} of {budget} tokens."


def error_text(error: str) -> str:
    """What the policy reads when it did something wrong."""
    return f"Error: {error}"
