"""Reads a response of the policy: `<think>…</think>`, then calls or an answer.

The parser never raises, whatever the text, and takes linear time. Every deviation from
the protocol becomes a sentence that the policy reads and that the record keeps.

What is done in spite of a deviation follows one rule: the action part must be complete
and have one reading.

| response | acted upon |
|---|---|
| no `<think>`, several of them, or one behind the action | yes |
| text outside the tags | yes |
| one call as a JSON object instead of an array | yes |
| several `<tool_call>` blocks, all readable | yes, in order |
| `<tool_call>` and `<answer>`, or several answers | no |
| neither; an empty answer; an empty array | no |
| a tag that is not closed (all behind an open `<think>` is thought) | no |
| text that is no JSON in any `<tool_call>` | no |

Inside an array every call stands alone: a wrong one becomes an `InvalidCall`, the others
are run. Tags inside a thought or inside a JSON string mean nothing.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from agemem_jax.protocol.tools import ToolCall, ToolError, ToolTable, shown

_OPENING = re.compile(r"<(think|tool_call|answer)>")
# Up to the closing tag that stands outside of JSON strings. Nothing that was matched is given
# back, so a match that fails takes linear time as well.
_CALLS = re.compile(
    r'(?:[^"<]++|"(?:[^"\\]++|\\.)*+"?|<(?!/tool_call>))*+(?=</tool_call>)', re.DOTALL
)
# Deeper arguments are no use to any tool, and a bound keeps the JSON decoder's stack short.
_MAX_DEPTH = 32
_RAW_LENGTH = 500
_SKIPPED = re.compile(r"[\s,]*\[?[\s,]*")  # between calls, or before the first one


@dataclasses.dataclass(frozen=True)
class InvalidCall:
    """A call that is not run.

    Attributes:
      name: the tool as written, "" when there is none.
      raw: the call as JSON, cut after 500 characters.
      error: one sentence that says what to do instead.
    """

    name: str
    raw: str
    error: str


@dataclasses.dataclass(frozen=True)
class ParsedResponse:
    """What a response says.

    Either `answer` is set, or `calls` holds something, or `errors` says why nothing is
    done; never both of the first two.

    Attributes:
      think: the thought, None without a complete one.
      calls: what to run, in order.
      answer: the answer, not empty.
      errors: deviations from the protocol, one sentence each.
    """

    think: str | None
    calls: tuple[ToolCall | InvalidCall, ...]
    answer: str | None
    errors: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """The tagged parts of a response, in order of appearance."""

    items: tuple[tuple[str, str, int], ...]  # (tag, content, where it starts in the text)
    outside: bool  # whether there is text outside of them
    unclosed: str | None  # the tag that never closes


def parse(text: str, tools: ToolTable) -> ParsedResponse:
    """Reads one response, in which `tools` may be called.

    Special tokens of the chat format are already stripped.
    """
    blocks = _split(text)
    thoughts = [content.strip() for tag, content, _ in blocks.items if tag == "think"]
    actions = [(tag, content) for tag, content, _ in blocks.items if tag != "think"]
    errors = []
    if not thoughts and blocks.unclosed != "think":
        errors.append("Start with <think>...</think>.")
    elif len(thoughts) > 1:
        errors.append("Write one <think>...</think> only.")
    elif thoughts and blocks.items[0][0] != "think":
        errors.append("Put <think>...</think> first.")
    if blocks.outside:
        errors.append("Write nothing outside the tags.")

    calls: tuple[ToolCall | InvalidCall, ...] = ()
    answer = None
    tags = [tag for tag, _ in actions]
    if blocks.unclosed:
        errors.append(f"<{blocks.unclosed}> is not closed, so nothing was done.")
    elif not actions:
        errors.append("Give one <tool_call>[...]</tool_call> or one <answer>...</answer>.")
    elif "answer" in tags and len(tags) > 1:
        errors.append("Give <tool_call> or <answer>, one of them, once; nothing was done.")
    elif tags == ["answer"]:
        answer, problem = _read_answer(actions[0][1])
        errors += problem
    else:
        if len(tags) > 1:
            errors.append("Put all calls into one <tool_call>[...]</tool_call>.")
        calls, problem = _read_calls([content for _, content in actions], tools)
        errors += problem
    return ParsedResponse(thoughts[0] if thoughts else None, calls, answer, tuple(errors))


def call_spans(text: str) -> list[tuple[int, int]]:
    """Where the calls stand that `parse` finds in a response: [start, end) in characters, in order.

    Of a response in which it finds none, nothing that is said here means anything.
    """
    spans = []
    for tag, content, start in _split(text).items:
        if tag != "tool_call":
            continue
        place = _SKIPPED.match(content).end()
        try:
            while place < len(content) and content[place] != "]":
                _, end = json.JSONDecoder().raw_decode(content, place)
                spans.append((start + place, start + end))
                place = _SKIPPED.match(content, end).end()
        except ValueError:
            return spans
    return spans


def _split(text: str) -> _Blocks:
    items = []
    quotes_pair = True
    outside = False
    position = 0
    while True:
        opening = _OPENING.search(text, position)
        between = text[position : opening.start() if opening else len(text)]
        outside = outside or bool(between.strip())
        if opening is None:
            return _Blocks(tuple(items), outside, None)
        tag = opening[1]
        calls = _CALLS.match(text, opening.end()) if tag == "tool_call" and quotes_pair else None
        if tag == "tool_call" and calls is None:
            # A string that never ends has taken every closing tag: the calls are no JSON,
            # whichever of them is meant. Looked for once only, so that time stays linear.
            quotes_pair = False
        end = calls.end() if calls else text.find(f"</{tag}>", opening.end())
        if end < 0:
            return _Blocks(tuple(items), outside, tag)
        items.append((tag, text[opening.end() : end], opening.end()))
        position = end + len(tag) + 3


def _read_answer(content: str) -> tuple[str | None, list[str]]:
    answer = content.strip()
    if not answer:
        return None, ["The answer is empty; write it between <answer> and </answer>."]
    if re.search(r"</?(?:think|tool_call|answer)>", answer):
        return None, ["Write no tags inside <answer>; nothing was done."]
    return answer, []


def _read_calls(
    contents: list[str], tools: ToolTable
) -> tuple[tuple[ToolCall | InvalidCall, ...], list[str]]:
    """All calls of all blocks; none at all when one block cannot be read."""
    calls: list[ToolCall | InvalidCall] = []
    errors: list[str] = []
    for content in contents:
        try:
            value = _decode(content)
        except ValueError as error:
            return (), [*errors, f"<tool_call> holds no valid JSON ({error}); nothing was done."]
        if isinstance(value, dict):
            errors.append("Put the call into a JSON array: [{...}].")
            value = [value]
        if not isinstance(value, list) or not value:
            return (), [
                *errors,
                '<tool_call> needs a JSON array of {"name": ..., "arguments": {...}}; '
                "nothing was done.",
            ]
        calls += [_read_call(item, tools) for item in value]
    return tuple(calls), errors


def _read_call(item: Any, tools: ToolTable) -> ToolCall | InvalidCall:
    name = item.get("name", "") if isinstance(item, dict) else ""
    try:
        if not isinstance(item, dict):
            raise ToolError(
                f'A call must be {{"name": ..., "arguments": {{...}}}}, not {shown(item)}.'
            )
        if "name" not in item:
            raise ToolError('A call needs a "name".')
        extra = [key for key in item if key not in ("name", "arguments")]
        if extra:
            raise ToolError(f'A call has only "name" and "arguments", not {shown(extra[0])}.')
        return tools.validate(name, item.get("arguments", {}))
    except ToolError as error:
        written = name if isinstance(name, str) else ""
        written = written.encode("utf-8", "replace").decode("utf-8")[:_RAW_LENGTH]
        return InvalidCall(written, json.dumps(item)[:_RAW_LENGTH], str(error))


def _decode(text: str) -> Any:
    """Strict JSON of bounded depth. Raises ValueError with a short reason."""
    if _depth(text) > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{error.msg.lower().removesuffix(' at')} at character {error.pos}"
        ) from None


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings."""
    depth = deepest = 0
    for piece in re.finditer(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', text, re.DOTALL):
        if piece[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif piece[0] in "]}":
            depth -= 1
    return deepest


def _unique_keys(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return value


def _no_constant(name: str):
    raise ValueError(f"{name} is no JSON number")


def _short(text: str) -> int:
    if len(text) > 18:
        raise ValueError("a number is too large")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return value
