"""The six tools as data (paper section 3.2, appendix A.1) and the check of a call.

Prompts, schemas and the parser all read `TOOLS`, so a tool is described in one place.
What a tool does lives elsewhere: long-term ones in `memory`, context ones in `rollout`.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

MAX_TOP_K = 10
_MAX_SPAN = 1_000_000
_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", dict: "object"}
_TYPE_NAMES = {str: "a string", bool: "true or false", int: "an integer", dict: "a JSON object"}


class ToolError(ValueError):
    """A call that cannot be run; the message is one sentence for the policy."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One argument of a tool.

    Attributes:
      name: key in the call's arguments.
      type: `str`, `bool`, `int` or `dict`, the Python type of the JSON value.
      required: whether a call without it is refused.
      description: for the full system prompt and the JSON schema.
      default: what the tool uses when an optional argument is left out, if worth saying.
    """

    name: str
    type: type
    required: bool
    description: str
    default: Any = None


@dataclasses.dataclass(frozen=True)
class ToolSpec:
    """One tool.

    Attributes:
      name: as the policy calls it.
      target: what it edits, "LTM" (long-term memory) or "STM" (the context).
      parameters: required ones first.
      description: for the full system prompt and the JSON schema.
      summary: the same in a few words, for the compact system prompt.
      example: arguments of a good call.
    """

    name: str
    target: Literal["LTM", "STM"]
    parameters: tuple[Parameter, ...]
    description: str
    summary: str
    example: Mapping[str, Any]


_METADATA = Parameter("metadata", dict, False, "Labels to keep with the memory.")
_MEMORY_ID = Parameter(
    "memory_id", str, True, "Id of a memory that was shown to you, such as mem_a5b40d65."
)

TOOLS = (
    ToolSpec(
        name="Add_memory",
        target="LTM",
        parameters=(
            Parameter("content", str, True, "What to remember, complete in itself."),
            _METADATA,
            Parameter("memory_type", str, False, "Kind of memory, such as fact or preference."),
        ),
        description="Stores a new memory. The result names its id.",
        summary="store a new fact",
        example={"content": "Ana lives in Rome."},
    ),
    ToolSpec(
        name="Update_memory",
        target="LTM",
        parameters=(
            _MEMORY_ID,
            Parameter("content", str, True, "The text that takes the place of the old one."),
            _METADATA,
        ),
        description="Replaces a memory that is no longer true or not complete.",
        summary="replace a stored fact that changed",
        example={"memory_id": "mem_a5b40d65", "content": "Ana lives in Oslo."},
    ),
    ToolSpec(
        name="Delete_memory",
        target="LTM",
        parameters=(
            _MEMORY_ID,
            Parameter("confirmation", bool, True, "Must be true; guards against accidents."),
        ),
        description="Removes a memory for good.",
        summary="remove a memory; confirmation is true",
        example={"memory_id": "mem_a5b40d65", "confirmation": True},
    ),
    ToolSpec(
        name="Retrieve_memory",
        target="LTM",
        parameters=(
            Parameter("query", str, True, "What to look for."),
            Parameter("top_k", int, False, f"How many memories, 1 to {MAX_TOP_K}.", default=3),
            Parameter(
                "metadata_filter", dict, False, "Labels that a memory must carry to be found."
            ),
        ),
        description="Brings the stored memories nearest to the query into the conversation.",
        summary="look up stored facts",
        example={"query": "Where does Ana live?"},
    ),
    ToolSpec(
        name="Summary_context",
        target="STM",
        parameters=(
            Parameter("span", str, True, '"all", or how many of the latest messages, such as "4".'),
        ),
        description="Replaces messages of the conversation by a summary that you write next.",
        summary='shorten messages; span is "all" or a number',
        example={"span": "all"},
    ),
    ToolSpec(
        name="Filter_context",
        target="STM",
        parameters=(Parameter("criteria", str, True, "What the unwanted messages are about."),),
        description="Removes the messages of the conversation that resemble the criteria.",
        summary="drop messages about this",
        example={"criteria": "small talk about the weather"},
    ),
)
TOOL_NAMES = tuple(tool.name for tool in TOOLS)

_BY_NAME = {tool.name: tool for tool in TOOLS}
# The paper's own examples use these spellings.
_ARGUMENT_ALIASES = {("Delete_memory", "confirmed"): "confirmation"}


@dataclasses.dataclass(frozen=True)
class ToolCall:
    """A call that passed `validate`: known tool, canonical and complete arguments."""

    name: str
    arguments: Mapping[str, Any]


def select(names: Sequence[str]) -> tuple[ToolSpec, ...]:
    """The named tools, in the order of `TOOLS`. Raises ValueError for an unknown name."""
    unknown = [name for name in names if name not in _BY_NAME]
    if unknown:
        raise ValueError(f"There is no tool {unknown[0]!r}; known tools: {', '.join(TOOL_NAMES)}.")
    return tuple(tool for tool in TOOLS if tool.name in names)


def tool_schemas(names: Sequence[str] = TOOL_NAMES) -> list[dict[str, Any]]:
    """The named tools as function schemas of the OpenAI chat API (JSON Schema)."""
    return [_schema(tool) for tool in select(names)]


def _schema(tool: ToolSpec) -> dict[str, Any]:
    properties = {}
    for parameter in tool.parameters:
        entry = {"type": _JSON_TYPES[parameter.type], "description": parameter.description}
        if parameter.default is not None:
            entry["default"] = parameter.default
        if parameter.type is int:
            entry |= {"minimum": 1, "maximum": MAX_TOP_K}
        properties[parameter.name] = entry
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": [p.name for p in tool.parameters if p.required],
                "additionalProperties": False,
            },
        },
    }


def compact_schemas(names: Sequence[str] = TOOL_NAMES) -> str:
    """One short line per tool with its required arguments, for small models."""
    lines = []
    for tool in select(names):
        arguments = ", ".join(p.name for p in tool.parameters if p.required)
        lines.append(f"{tool.name}({arguments}): {tool.summary}")
    return "\n".join(lines)


def validate(name: Any, arguments: Any) -> ToolCall:
    """Checks a call and brings its arguments into their one canonical form.

    Lenient only where one reading exists: `confirmed` means `confirmation`; the span
    "full" means "all" and may be a number; `top_k` may be "3" or 3.0; a boolean may be
    "true" or "false"; an optional argument that is null counts as left out. Strings lose
    surrounding blanks. Optional arguments that are left out stay out, so that the caller's
    own defaults apply.

    Args:
      name: the tool, as written.
      arguments: the decoded JSON value of the arguments.

    Raises:
      ToolError: with one sentence that says what to do instead.
    """
    if not isinstance(name, str) or name not in _BY_NAME:
        raise ToolError(f"There is no tool {shown(name)}; use one of {', '.join(TOOL_NAMES)}.")
    if not isinstance(arguments, Mapping):
        raise ToolError(f"The arguments of {name} must be a JSON object, not {shown(arguments)}.")
    tool = _BY_NAME[name]
    given = _resolve_aliases(tool, arguments)
    checked = {}
    for parameter in tool.parameters:
        value = given.get(parameter.name)
        if value is None:
            if parameter.required:
                raise ToolError(f"{name} needs the argument {parameter.name}.")
            continue
        checked[parameter.name] = _check(tool, parameter, value)
    if name == "Delete_memory" and not checked["confirmation"]:
        raise ToolError("Delete_memory deletes only when confirmation is true.")
    return ToolCall(name, checked)


def shown(value: Any) -> str:
    """A short, encodable form of what the policy wrote, for error sentences."""
    if isinstance(value, str):
        value = value[:40] + "..." if len(value) > 40 else value
    elif isinstance(value, (list, tuple)):
        return "a list"
    elif isinstance(value, Mapping):
        return "an object"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):  # a value that is no JSON, or a number of absurd length
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:60] + "..."


def _resolve_aliases(tool: ToolSpec, arguments: Mapping[Any, Any]) -> dict[str, Any]:
    known = [parameter.name for parameter in tool.parameters]
    given: dict[str, Any] = {}
    for key, value in arguments.items():
        name = _ARGUMENT_ALIASES.get((tool.name, key), key)
        if name not in known:
            raise ToolError(
                f"{tool.name} has no argument {shown(key)}; it takes {', '.join(known)}."
            )
        if name in given:
            raise ToolError(f"{tool.name} got {name} twice, under two names; give it once.")
        given[name] = value
    return given


def _check(tool: ToolSpec, parameter: Parameter, value: Any) -> Any:
    where = f"{parameter.name} of {tool.name}"
    if parameter.name == "span":
        return _check_span(value)
    if parameter.type is int:
        return _check_top_k(where, value)
    if parameter.type is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, parameter.type):
        raise ToolError(f"{where} must be {_TYPE_NAMES[parameter.type]}, not {shown(value)}.")
    if not _encodable(value):
        raise ToolError(
            f"{where} holds half of a character pair (\\ud800 to \\udfff); leave it out."
        )
    if parameter.type is str:
        value = value.strip()
        if not value:
            raise ToolError(f"{where} is empty; give it some text.")
    return value


def _check_span(value: Any) -> str:
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


def _check_top_k(where: str, value: Any) -> int:
    number = value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}", value.strip()):
        number = int(value)
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool):
        raise ToolError(f"{where} must be an integer, not {shown(value)}.")
    if not 1 <= number <= MAX_TOP_K:
        raise ToolError(f"{where} must be from 1 to {MAX_TOP_K}, not {shown(value)}.")
    return number


def _encodable(value: Any) -> bool:
    """Whether every string inside can be written as UTF-8, as tokenizers need."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                return False
        elif isinstance(item, Mapping):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return True
