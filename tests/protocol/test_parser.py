"""The parser of responses: the protocol, its deviations, and text of any kind."""

import functools
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agemem_jax.protocol import parser
from agemem_jax.protocol.parser import InvalidCall, ParsedResponse
from agemem_jax.protocol.tools import ToolCall
from agemem_jax.rollout.tools.registry import TOOL_NAMES, tool_table

parse = functools.partial(parser.parse, tools=tool_table())
ADD = ToolCall("Add_memory", {"content": "Ana lives in Rome."})
ADD_JSON = '{"name": "Add_memory", "arguments": {"content": "Ana lives in Rome."}}'
FIND = ToolCall("Retrieve_memory", {"query": "Ana"})
FIND_JSON = '{"name": "Retrieve_memory", "arguments": {"query": "Ana"}}'
TAGS = [f"<{slash}{tag}>" for tag in ("think", "tool_call", "answer") for slash in ("", "/")]


def test_an_answer_with_a_thought_is_read_without_errors():
    assert parse(" <think> a \n</think>\n<answer> Rome </answer>\n") == ParsedResponse(
        "a", (), "Rome", ()
    )


def test_calls_in_an_array_are_read_in_order():
    text = f"<think></think><tool_call>[{ADD_JSON}, {FIND_JSON}]</tool_call>"
    assert parse(text) == ParsedResponse("", (ADD, FIND), None, ())


@pytest.mark.parametrize(
    ("text", "calls", "answer", "says"),
    [
        ("<answer>x</answer>", (), "x", "Start with <think>"),
        ("<answer>x</answer><think>a</think>", (), "x", "<think>...</think> first"),
        ("<think>a</think><think>b</think><answer>x</answer>", (), "x", "one <think>"),
        ("<think>a</think>so <answer>x</answer>", (), "x", "nothing outside"),
        ("<think>a</think><answer>x</answer> bye", (), "x", "nothing outside"),
        ("<think>a</think></think><answer>x</answer>", (), "x", "nothing outside"),
        (f"<think>a</think><tool_call>{ADD_JSON}</tool_call>", (ADD,), None, "JSON array"),
        (
            f"<think>a</think><tool_call>[{ADD_JSON}]</tool_call>\n"
            f"<tool_call>[{FIND_JSON}]</tool_call>",
            (ADD, FIND),
            None,
            "all calls into one",
        ),
    ],
)
def test_an_unambiguous_action_is_taken_in_spite_of_a_deviation(text, calls, answer, says):
    parsed = parse(text)
    assert (parsed.calls, parsed.answer) == (calls, answer)
    assert len(parsed.errors) == 1 and says in parsed.errors[0]


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("", "Give one <tool_call>"),
        ("Rome", "Give one <tool_call>"),
        ("I will call Add_memory with content Rome.", "Give one <tool_call>"),
        (f"<tool_call>[{ADD_JSON}]</tool_call><answer>x</answer>", "one of them, once"),
        (f"<answer>x</answer><tool_call>[{ADD_JSON}]</tool_call>", "one of them, once"),
        ("<answer>x</answer><answer>y</answer>", "one of them, once"),
        ("<answer>x", "<answer> is not closed"),
        (f"<tool_call>[{ADD_JSON}]", "<tool_call> is not closed"),
        (f"<answer>x</answer><tool_call>[{ADD_JSON}]", "<tool_call> is not closed"),
        ("<answer>  </answer>", "answer is empty"),
        (f"<answer><tool_call>[{ADD_JSON}]</tool_call></answer>", "no tags inside <answer>"),
        (f"<tool_call>[{ADD_JSON}</tool_call>", "no valid JSON"),
        (f"<tool_call>[{ADD_JSON},]</tool_call>", "no valid JSON"),
        (f"<tool_call>[{ADD_JSON}] and more</tool_call>", "no valid JSON"),
        (
            f"<tool_call>[{ADD_JSON}]</tool_call><tool_call>[{{]</tool_call>",
            "no valid JSON",
        ),
        ("<tool_call>[]</tool_call>", "needs a JSON array"),
        ('<tool_call>"Add_memory"</tool_call>', "needs a JSON array"),
        ('<tool_call>[{"name": "a", "name": "b"}]</tool_call>', "a key occurs twice"),
        ("<tool_call>[NaN]</tool_call>", "NaN is no JSON number"),
        ("<tool_call>[1e999]</tool_call>", "too large"),
        (f"<tool_call>[{'9' * 5000}]</tool_call>", "too large"),
        (f"<tool_call>{'[' * 100_000}</tool_call>", "nested deeper"),
        (f"<tool_call>{'[' * 40}{']' * 40}</tool_call>", "nested deeper"),
    ],
)
def test_an_unreadable_action_is_not_taken_and_explained(action, says):
    parsed = parse(f"<think>a</think>{action}")
    assert (parsed.calls, parsed.answer) == ((), None)
    assert any(says in error for error in parsed.errors)
    assert all(len(error) < 200 for error in parsed.errors)


def test_everything_behind_an_open_thought_is_thought():
    parsed = parse(f"<think>maybe <tool_call>[{ADD_JSON}]</tool_call>")
    assert (parsed.think, parsed.calls, parsed.answer) == (None, (), None)
    assert parsed.errors == ("<think> is not closed, so nothing was done.",)


def test_tags_inside_a_thought_or_a_json_string_mean_nothing():
    content = "the <answer> tag, and [brackets {"
    call = json.dumps([{"name": "Add_memory", "arguments": {"content": content}}])
    parsed = parse(f"<think>not <answer>x</answer></think><tool_call>{call}</tool_call>")
    assert parsed.calls == (ToolCall("Add_memory", {"content": content}),)
    assert parsed.errors == ()


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_inside_a_json_string_is_part_of_the_string(tag):
    content = f'Calls end with {tag} and "{tag}" here, \\{tag}'
    call = json.dumps([{"name": "Add_memory", "arguments": {"content": content}}])
    parsed = parse(f"<think>a</think><tool_call>{call}</tool_call>")
    assert parsed == ParsedResponse("a", (ToolCall("Add_memory", {"content": content}),), None, ())
    # And so it is in the second of two blocks.
    first = f"<tool_call>[{FIND_JSON}]</tool_call>"
    parsed = parse(f"<think>a</think>{first}<tool_call>{call}</tool_call>")
    assert parsed.calls == (FIND, ToolCall("Add_memory", {"content": content}))


@pytest.mark.parametrize(
    "action",
    [
        '<tool_call>[{"name": "Add_memory", "arguments": {"content": "Rome}}]</tool_call>',
        '<tool_call>[{"name": "Add_memory", "arguments": {"content": "see </tool_call> he',
        f'<tool_call>["]</tool_call><tool_call>[{ADD_JSON}]</tool_call>',
        f'<tool_call>[{ADD_JSON}]</tool_call><tool_call>["]</tool_call>',
        '<tool_call>["\\"]</tool_call>',
    ],
)
def test_a_string_that_never_ends_is_no_json_and_nothing_is_done(action):
    parsed = parse(f"<think>a</think>{action}")
    assert (parsed.calls, parsed.answer) == ((), None)
    assert any("no valid JSON" in error for error in parsed.errors)


def test_a_wrong_call_stands_beside_the_good_ones():
    wrong = '{"name": "Fly", "arguments": {}}'
    parsed = parse(f"<think>a</think><tool_call>[{wrong}, {ADD_JSON}, 3]</tool_call>")
    fly, add, three = parsed.calls
    assert isinstance(fly, InvalidCall) and fly.name == "Fly" and fly.raw == wrong
    assert "There is no tool" in fly.error and "Retrieve_memory" in fly.error
    assert add == ADD
    assert isinstance(three, InvalidCall) and (three.name, three.raw) == ("", "3")
    assert parsed.errors == ()


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"arguments": {}}, 'needs a "name"'),
        ({"name": 3, "arguments": {}}, "no tool 3"),
        ({"name": "Add_memory", "arguments": '{"content": "a"}'}, "must be a JSON object"),
        ({"name": "Add_memory", "parameters": {"content": "a"}}, 'not "parameters"'),
        ({"name": "Add_memory"}, "needs the argument content"),
        ({"name": "\ud800", "arguments": {}}, "no tool"),
    ],
)
def test_a_malformed_call_says_what_is_wrong_with_it(item, says):
    (call,) = parse(f"<think>a</think><tool_call>{json.dumps([item])}</tool_call>").calls
    assert isinstance(call, InvalidCall) and says in call.error
    (call.name + call.raw + call.error).encode("utf-8")


pieces = st.one_of(
    st.sampled_from(TAGS),
    st.sampled_from(
        ['[{"name": "', '", "arguments": {"', '": "', '"}}]', "[", "{", "}", "\\", '"']
    ),
    st.sampled_from((*TOOL_NAMES, "content", "span", "all", ADD_JSON, f"[{FIND_JSON}]")),
    st.text(st.characters(codec=None), max_size=12),
)


@settings(max_examples=400)
@given(st.lists(pieces, max_size=14).map("".join))
def test_no_text_makes_the_parser_raise_and_something_is_always_said(text):
    parsed = parse(text)
    assert parsed.calls == () or parsed.answer is None
    assert parsed.calls or parsed.answer or parsed.errors
    for error in (*parsed.errors, *(c.error for c in parsed.calls if isinstance(c, InvalidCall))):
        error.encode("utf-8")


any_text = st.lists(
    st.sampled_from([*TAGS, '"', "\\", "\n", "[", "}", "</tool", "_call>"])
    | st.text(st.characters(codec="utf-8"), max_size=12),
    max_size=8,
).map("".join)
some_text = any_text.map(str.strip).filter(bool)
labels = st.dictionaries(any_text, any_text | st.booleans() | st.lists(any_text, max_size=2))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
@given(
    any_text.filter(lambda t: "</think>" not in t),
    st.lists(
        st.tuples(st.just("Add_memory"), st.fixed_dictionaries({"content": some_text}))
        | st.tuples(
            st.just("Update_memory"),
            st.fixed_dictionaries(
                {"memory_id": some_text, "content": some_text, "metadata": labels}
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_what_a_good_policy_writes_is_read_back_whatever_its_strings(
    thought, calls, escaped, indent
):
    listed = json.dumps(
        [{"name": n, "arguments": a} for n, a in calls], ensure_ascii=escaped, indent=indent
    )
    parsed = parse(f"<think>{thought}</think><tool_call>{listed}</tool_call>")
    assert parsed == ParsedResponse(
        thought.strip(), tuple(ToolCall(n, a) for n, a in calls), None, ()
    )


@pytest.mark.parametrize(
    "unit",
    [
        "<think>", "<think></think>", "<answer></answer>", "<tool_call>", '"', '"\\', "\\", "[",
        "<", "</tool_call>", '"</tool_call>', '<tool_call>"</tool_call>',
        '"</tool_call>"<tool_call>', '<tool_call>\\"</tool_call>', '<tool_call>"</tool_call>"\\',
        '<tool_call>"</tool_call><tool_call>""</tool_call>',
    ],
)  # fmt: skip
def test_time_grows_linearly_with_the_text(unit):
    def seconds(length: int) -> float:
        text = "<tool_call>" + unit * (length // len(unit)) + "</tool_call>"
        best = []
        for _ in range(3):
            begun = time.process_time()
            parse(text)
            best.append(time.process_time() - begun)
        return min(best)

    # Four times the text in at most about four times the time; quadratic would be 16.
    assert seconds(400_000) < 10 * seconds(100_000) + 0.01


def test_spans_of_calls_are_where_they_stand_in_the_text():
    one, two = '{"name": "Retrieve_memory", "arguments": {"query": "a ]} b"}}', '{"name": 3}'
    text = f"<think>[{{}}]</think><tool_call> [ {one} ,\n{two}]</tool_call><tool_call>{one}"
    text += "</tool_call><answer>"
    assert [text[start:end] for start, end in parser.call_spans(text)] == [one, two, one]
    assert (
        parser.call_spans("<tool_call>[{]</tool_call>")
        == []
        == parser.call_spans("<answer>[1]</answer>")
    )
