"""The texts that the policy is shown."""

import re

import pytest

from agemem_jax.protocol import prompts
from agemem_jax.protocol.events import RetrievedEntry, ToolEvent
from agemem_jax.protocol.parser import parse
from agemem_jax.protocol.tools import TOOL_NAMES, TOOLS

ROME = RetrievedEntry("mem_a5b40d65", "Ana lives in Rome.", 0.9)
OSLO = RetrievedEntry("mem_00000001", "Ben lives\nin Oslo.", 0.5)


def event(name, ok=True, **fields):
    return ToolEvent(stage=1, step=0, name=name, arguments={}, ok=ok, **fields)


@pytest.mark.parametrize("style", prompts.STYLES)
@pytest.mark.parametrize(
    "tools",
    [TOOL_NAMES, tuple(t.name for t in TOOLS if t.target == "LTM"), ("Filter_context",), ()],
)
def test_the_system_prompts_example_follows_the_protocol_it_states(style, tools):
    text = prompts.system_prompt(style, tools=tools)
    example = re.search(r"Example[^:]*:\s*(<think>.*)$", text, re.DOTALL)
    parsed = parse(example[1])
    assert parsed.errors == ()
    assert [call.name for call in parsed.calls] == list(tools[:1])
    assert (parsed.answer is None) == bool(tools)


@pytest.mark.parametrize("style", prompts.STYLES)
def test_the_system_prompt_lists_exactly_the_tools_on_offer(style):
    offered = TOOL_NAMES[:4]
    text = prompts.system_prompt(style, tools=offered)
    assert [name for name in TOOL_NAMES if name in text] == list(offered)


def test_the_compact_prompt_is_short():
    assert len(prompts.system_prompt("compact").split()) <= 100


def test_an_unknown_style_or_tool_is_refused():
    with pytest.raises(ValueError, match="full, compact"):
        prompts.system_prompt("short")
    with pytest.raises(ValueError, match="no tool 'Fly'"):
        prompts.system_prompt("full", tools=("Fly",))


def test_a_message_carries_what_was_retrieved_for_it_one_line_per_memory():
    assert prompts.task_message_text("Hi.", (ROME, OSLO)) == (
        "Hi.\nMemories:\n- mem_a5b40d65: Ana lives in Rome.\n- mem_00000001: Ben lives in Oslo."
    )


def test_a_message_without_memories_stands_alone():
    assert prompts.task_message_text("Hi.", ()) == "Hi."


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (event("Add_memory", memory_id="mem_1"), "Added mem_1."),
        (event("Update_memory", memory_id="mem_1"), "Updated mem_1."),
        (event("Delete_memory", memory_id="mem_1"), "Deleted mem_1."),
        (
            event("Retrieve_memory", retrieved=(ROME,)),
            "Memories:\n- mem_a5b40d65: Ana lives in Rome.",
        ),
        (event("Retrieve_memory"), "No memories."),
        (event("Summary_context", content="long"), "Summarised."),
        (event("Filter_context", content="1"), "Removed 1 message."),
        (event("Filter_context", content="2"), "Removed 2 messages."),
        (event("Add_memory", ok=False, error="The memory is full."), "Error: The memory is full."),
    ],
)
def test_every_tool_tells_the_policy_what_it_did(result, text):
    assert prompts.tool_result_text(result) == text
