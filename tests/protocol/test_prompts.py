"""The texts that the policy is shown."""

import re

import pytest

from agemem_jax.protocol import prompts
from agemem_jax.protocol.events import RetrievedEntry
from agemem_jax.protocol.parser import parse
from agemem_jax.rollout.tools.environment import ACT
from agemem_jax.rollout.tools.registry import TOOL_NAMES, of_target, tool_table

ROME = RetrievedEntry("mem_a5b40d65", "Ana lives in Rome.", 0.9)
OSLO = RetrievedEntry("mem_00000001", "Ben lives\nin Oslo.", 0.5)


@pytest.mark.parametrize("style", prompts.STYLES)
@pytest.mark.parametrize(
    "tools",
    [TOOL_NAMES, of_target(TOOL_NAMES, "LTM"), ("Filter_context",), (ACT,), ()],
)
def test_the_system_prompts_example_follows_the_protocol_it_states(style, tools):
    table = tool_table(tools)
    text = prompts.system_prompt(style, table)
    example = re.search(r"Example[^:]*:\s*(<think>.*)$", text, re.DOTALL)
    parsed = parse(example[1], table)
    assert parsed.errors == ()
    assert [call.name for call in parsed.calls] == list(table.names[:1])
    assert (parsed.answer is None) == bool(tools)


@pytest.mark.parametrize("style", prompts.STYLES)
def test_the_system_prompt_lists_exactly_the_tools_on_offer(style):
    offered = TOOL_NAMES[:4]
    text = prompts.system_prompt(style, tool_table(offered))
    assert [name for name in TOOL_NAMES if name in text] == list(offered)


def test_the_compact_prompt_is_short():
    assert len(prompts.system_prompt("compact", tool_table()).split()) <= 100


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="full, compact"):
        prompts.system_prompt("short", tool_table())


@pytest.mark.parametrize("style", prompts.STYLES)
def test_where_a_tool_acts_the_prompt_announces_a_goal_instead_of_a_question(style):
    asks = prompts.system_prompt(style, tool_table())
    acts = prompts.system_prompt(style, tool_table((*TOOL_NAMES, ACT)))
    assert "question" in asks and "goal" not in asks
    assert "goal" in acts and "question" not in acts


@pytest.mark.parametrize("style", prompts.STYLES)
@pytest.mark.parametrize("goal", [(), (ACT,)])
def test_storing_is_spoken_of_only_where_something_can_be_stored(style, goal):
    stores = prompts.system_prompt(style, tool_table((*TOOL_NAMES, *goal)))
    reads = prompts.system_prompt(style, tool_table(("Retrieve_memory", *goal)))
    assert re.search(r"\bstored?\b", stores)
    assert not re.search(r"Only stored facts|did not store|you stored|its own memory", reads)


def test_a_message_carries_what_was_retrieved_for_it_one_line_per_memory():
    assert prompts.task_message_text("Hi.", (ROME, OSLO)) == (
        "Hi.\nMemories:\n- mem_a5b40d65: Ana lives in Rome.\n- mem_00000001: Ben lives in Oslo."
    )


def test_a_message_without_memories_stands_alone():
    assert prompts.task_message_text("Hi.", ()) == "Hi."
