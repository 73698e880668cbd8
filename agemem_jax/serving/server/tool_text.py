"""Functions as text: how they are offered, how the model calls them, how results come back.

The same for all backbones: `<tool_call>` around JSON, as this library's own agents and the
models of the Hermes and Qwen families write calls, whatever a tokenizer's own template does.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_jax.serving.server.chat_request import Call, Function

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_SKIPPED = re.compile(r"[\s,\[\]]*")


def offer(functions: Sequence[Function]) -> str:
    """The part of the system text that tells the model what it may call."""
    schemas = (
        {
            "name": function.name,
            "description": function.description or "",
            "parameters": schema_of(function),
        }
        for function in functions
    )
    listed = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in schemas)
    return (
        "You may call functions. Each line is one, with the JSON schema of its arguments:\n"
        f"<tools>\n{listed}\n</tools>\n"
        "To call one, write its name and arguments as JSON between these tags:\n"
        f'{OPENING}{{"name": "...", "arguments": {{...}}}}{CLOSING}\n'
        "Its result comes in the next message."
    )


def schema_of(function: Function) -> dict[str, Any]:
    """The JSON schema of a function's arguments; without one they are an empty object."""
    return function.parameters or {"type": "object", "properties": {}}


def schema_of_call(functions: Sequence[Function]) -> dict[str, Any]:
    """The JSON schema of a call of one of the functions."""
    definitions: dict[str, Any] = {}
    calls = []
    for index, function in enumerate(functions):
        schema = dict(schema_of(function))
        # Names inside of a schema are looked up from the root: each function has its own there.
        own = schema.pop("$defs", None), schema.pop("definitions", None)
        for key, part in zip(("$defs", "definitions"), own, strict=True):
            for name, value in (part or {}).items():
                definitions[f"{index}-{key[0] == '$'}-{name}"] = _renamed(value, index)
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": function.name},
                    "arguments": _renamed(schema, index),
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    whole = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**whole, "$defs": definitions} if definitions else whole


def _renamed(value: Any, index: int) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _renamed_reference(part, index)
            if key == "$ref" and isinstance(part, str)
            else _renamed(part, index)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_renamed(part, index) for part in value]
    return value


def _renamed_reference(reference: str, index: int) -> str:
    for key in ("$defs", "definitions"):
        start = f"#/{key}/"
        if reference.startswith(start):
            return f"#/$defs/{index}-{key[0] == '$'}-{reference.removeprefix(start)}"
    return reference


def written(calls: Sequence[Call]) -> str:
    """Calls of an earlier turn as the model wrote them."""
    texts = []
    for call in calls:
        name, arguments = json.dumps(call.function.name), call.function.arguments or "{}"
        texts.append(f'{OPENING}{{"name": {name}, "arguments": {arguments}}}{CLOSING}')
    return "\n".join(texts)


def result(text: str) -> str:
    """What a call gave, as the model reads it."""
    return f"<tool_response>\n{text}\n</tool_response>"


def find_calls(text: str, names: frozenset[str]) -> tuple[str, list[dict[str, Any]]]:
    """The calls in a response.

    Args:
      text: of the response.
      names: of the functions on offer.

    Returns:
      The text before the first call, and OpenAI's form of the calls. Where a call cannot be read
      or calls what is not on offer, all of the text and none.
    """
    before, opening, rest = text.partition(OPENING)
    if not opening:
        return text, []
    calls = []
    for block in rest.split(OPENING):
        inside = block.partition(CLOSING)[0]
        place = _SKIPPED.match(inside).end()
        while place < len(inside):
            try:
                value, end = json.JSONDecoder().raw_decode(inside, place)
            except (ValueError, RecursionError):
                return text, []
            call = read_call(value, names)
            if call is None:
                return text, []
            calls.append(call)
            place = _SKIPPED.match(inside, end).end()
    return (before.rstrip(), calls) if calls else (text, [])


def read_call(value: Any, names: frozenset[str]) -> dict[str, Any] | None:
    """One call in OpenAI's form, or None where it is no call of one of the functions."""
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
