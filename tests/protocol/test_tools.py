"""The check of tool calls and the schemas made from the tool table."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agemem_jax.protocol.tools import ToolCall, ToolError
from agemem_jax.rollout.tools.registry import TOOL_NAMES, tool_table

TABLE = tool_table()
validate = TABLE.validate

# Written from the table of the paper's appendix: name -> (required, optional).
PAPER = {
    "Add_memory": ({"content": "string"}, {"metadata": "object", "memory_type": "string"}),
    "Update_memory": ({"memory_id": "string", "content": "string"}, {"metadata": "object"}),
    "Delete_memory": ({"memory_id": "string", "confirmation": "boolean"}, {}),
    "Retrieve_memory": ({"query": "string"}, {"top_k": "integer", "metadata_filter": "object"}),
    "Summary_context": ({"span": "string"}, {}),
    "Filter_context": ({"criteria": "string"}, {}),
}


def test_schemas_hold_the_papers_six_tools_with_their_arguments():
    found = {}
    for schema in TABLE.schemas():
        function = schema["function"]
        properties = function["parameters"]["properties"]
        required = set(function["parameters"]["required"])
        types = {name: entry["type"] for name, entry in properties.items()}
        found[function["name"]] = (
            {name: kind for name, kind in types.items() if name in required},
            {name: kind for name, kind in types.items() if name not in required},
        )
    assert found == PAPER
    json.dumps(TABLE.schemas())


def test_context_tools_are_told_apart_from_memory_tools():
    stm = {tool.name for tool in TABLE.specs if tool.target == "STM"}
    assert stm == {"Summary_context", "Filter_context"}


def test_compact_schemas_have_one_short_line_per_tool():
    lines = TABLE.compact_schemas().splitlines()
    assert [line.split("(")[0] for line in lines] == list(TOOL_NAMES)
    assert max(len(line.split()) for line in lines) <= 12
    assert tool_table(("Retrieve_memory",)).compact_schemas().startswith("Retrieve_memory(query): ")


def test_selecting_an_unknown_tool_is_refused():
    with pytest.raises(ValueError, match="There is no tool 'Fly'"):
        tool_table(("Fly",))


def test_every_example_of_the_table_is_a_valid_call():
    for tool in TABLE.specs:
        assert validate(tool.name, tool.example) == ToolCall(tool.name, dict(tool.example))


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("Add_memory", {"content": "  a \n"}, {"content": "a"}),
        ("Add_memory", {"content": "a", "metadata": None}, {"content": "a"}),
        (
            "Add_memory",
            {"content": "a", "metadata": {"k": [1, {"x": None}]}, "memory_type": "fact"},
            {"content": "a", "metadata": {"k": [1, {"x": None}]}, "memory_type": "fact"},
        ),
        (
            "Delete_memory",
            {"memory_id": " mem_a5b40d65 ", "confirmed": True},
            {"memory_id": "mem_a5b40d65", "confirmation": True},
        ),
        (
            "Delete_memory",
            {"memory_id": "m", "confirmation": "True"},
            {"memory_id": "m", "confirmation": True},
        ),
        ("Retrieve_memory", {"query": "q", "top_k": "3"}, {"query": "q", "top_k": 3}),
        ("Retrieve_memory", {"query": "q", "top_k": 5.0}, {"query": "q", "top_k": 5}),
        ("Retrieve_memory", {"query": "q"}, {"query": "q"}),
        ("Summary_context", {"span": "full"}, {"span": "all"}),
        ("Summary_context", {"span": " ALL "}, {"span": "all"}),
        ("Summary_context", {"span": 4}, {"span": "4"}),
        ("Summary_context", {"span": "04"}, {"span": "4"}),
    ],
)
def test_a_call_with_one_reading_gets_its_canonical_form(name, arguments, expected):
    assert validate(name, arguments) == ToolCall(name, expected)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("Fly", {}, 'no tool "Fly"; use one of Add_memory, '),
        (None, {}, "no tool null"),
        (["Add_memory"], {}, "no tool a list"),
        ("Add_memory", "text", "must be a JSON object"),
        ("Add_memory", {}, "needs the argument content"),
        ("Add_memory", {"content": None}, "needs the argument content"),
        ("Add_memory", {"content": 3}, "must be a string, not 3"),
        ("Add_memory", {"content": True}, "must be a string, not true"),
        ("Add_memory", {"content": " \n\t"}, "is empty"),
        ("Add_memory", {"content": "a", "metadata": "b"}, "must be a JSON object"),
        ("Add_memory", {"content": "a", "color": "b"}, 'has no argument "color"; it takes content'),
        ("Add_memory", {"content": "\ud800"}, "half of a character"),
        ("Add_memory", {"content": "a", "metadata": {"k": ["\udfff"]}}, "half of a character"),
        ("Add_memory", {"content": "a", "confirmed": True}, "has no argument"),
        ("Update_memory", {"memory_id": "m"}, "needs the argument content"),
        ("Update_memory", {"memory_id": "", "content": "a"}, "memory_id of Update_memory is empty"),
        ("Delete_memory", {"memory_id": "m"}, "needs the argument confirmation"),
        ("Delete_memory", {"memory_id": "m", "confirmation": False}, "only when confirmation"),
        ("Delete_memory", {"memory_id": "m", "confirmation": 1}, "true or false, not 1"),
        (
            "Delete_memory",
            {"memory_id": "m", "confirmation": True, "confirmed": True},
            "twice",
        ),
        ("Retrieve_memory", {"query": ""}, "is empty"),
        ("Retrieve_memory", {"query": "q", "top_k": 0}, "from 1 to 10, not 0"),
        ("Retrieve_memory", {"query": "q", "top_k": 11}, "from 1 to 10, not 11"),
        ("Retrieve_memory", {"query": "q", "top_k": True}, "an integer, not true"),
        ("Retrieve_memory", {"query": "q", "top_k": 2.5}, "an integer, not 2.5"),
        ("Retrieve_memory", {"query": "q", "top_k": "many"}, 'an integer, not "many"'),
        ("Summary_context", {"span": "0"}, 'not "0"'),
        ("Summary_context", {"span": -2}, "not -2"),
        ("Summary_context", {"span": True}, "not true"),
        ("Summary_context", {"span": "last two"}, 'must be "all" or a number'),
        ("Summary_context", {"span": "٣"}, 'must be "all" or a number'),
        ("Summary_context", {"span": 10**5000}, 'must be "all" or a number'),
        ("Summary_context", {"span": "9" * 5000}, 'must be "all" or a number'),
        ("Filter_context", {"criteria": ["a"]}, "must be a string, not a list"),
    ],
)
def test_a_wrong_call_is_answered_with_what_is_wrong(name, arguments, says):
    with pytest.raises(ToolError) as caught:
        validate(name, arguments)
    message = str(caught.value)
    assert says in message
    assert len(message) < 250
    message.encode("utf-8")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
argument_names = sorted(
    {p.name for tool in TABLE.specs for p in tool.parameters} | {"confirmed", "x"}
)


@given(
    st.sampled_from((*TOOL_NAMES, "Fly", "")),
    json_values | st.dictionaries(st.sampled_from(argument_names), json_values),
)
def test_validation_ends_in_a_canonical_call_or_a_tool_error(name, arguments):
    try:
        call = validate(name, arguments)
    except ToolError as error:
        str(error).encode("utf-8")
        return
    assert validate(call.name, call.arguments) == call
    json.dumps(call.arguments, ensure_ascii=False).encode("utf-8")
