import json

import jsonschema
import pytest

from agemem_jax.serving.server import tool_text
from agemem_jax.serving.server.chat_request import Call, CalledFunction, Function

NAMES = frozenset({"find", "add"})


def found(text):
    before, calls = tool_text.find_calls(text, NAMES)
    return before, [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


@pytest.mark.parametrize(
    "text",
    [
        'So.\n<tool_call>\n{"name": "add", "arguments": {"x": "</a>"}}\n</tool_call>',
        'So. <tool_call>[{"name": "add", "arguments": {"x": "</a>"}}]</tool_call>',
        'So. <tool_call>{"name": "add", "parameters": {"x": "</a>"}}',
    ],
)
def test_calls_are_read_in_the_forms_that_models_write(text):
    assert found(text) == ("So.", [("add", {"x": "</a>"})])


def test_several_calls_keep_their_order():
    blocks = [f'<tool_call>{{"name": "{n}", "arguments": {{}}}}</tool_call>' for n in NAMES]
    listed = '<tool_call>[{"name": "find"}, {"name": "add"}]</tool_call>'
    assert [name for name, _ in found("\n".join(blocks))[1]] == list(NAMES)
    assert [name for name, _ in found(listed)[1]] == ["find", "add"]


@pytest.mark.parametrize(
    "text",
    [
        "no call",
        "<tool_call>{'name': 'add'}</tool_call>",
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        "<tool_call></tool_call>",
        "<tool_call>" + "[" * 100_000,
        '<tool_call>{"name": "add"}</tool_call><tool_call>{</tool_call>',
    ],
)
def test_what_is_no_call_stays_text(text):
    assert found(text) == (text, [])


def test_a_call_is_written_as_it_is_read():
    call = Call(id="1", function=CalledFunction(name="add", arguments='{"x": 1}'))
    assert found(tool_text.written([call, call])) == ("", [("add", {"x": 1})] * 2)


def test_the_schema_of_a_call_keeps_each_functions_own_definitions_apart():
    def function(name, kind):
        schema = {
            "type": "object",
            "properties": {"v": {"$ref": "#/$defs/v"}},
            "required": ["v"],
            "$defs": {"v": {"type": kind}},
        }
        return Function(name=name, parameters=schema)

    schema = tool_text.schema_of_call([function("find", "string"), function("add", "integer")])
    check = jsonschema.Draft202012Validator(schema).is_valid
    assert check({"name": "find", "arguments": {"v": "x"}})
    assert check({"name": "add", "arguments": {"v": 1}})
    assert not check({"name": "add", "arguments": {"v": "x"}})
    assert not check({"name": "other", "arguments": {"v": 1}})
