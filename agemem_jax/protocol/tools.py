"""What a tool is: how a policy is told of it, how a call is checked, and what runs it.

Prompt, schema, check and execution of an episode read one `ToolTable`. The paper's six tools
and the one that acts in an environment are in `rollout/tools`; a user's own is a `ToolSpec`
like theirs.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from agemem_jax.protocol.events import RetrievedEntry

_JSON_TYPES = {
    str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array",
}  # fmt: skip
_TYPE_NAMES = {
    str: "a string", bool: "true or false", int: "an integer", float: "a number",
    dict: "a JSON object", list: "a JSON array",
}  # fmt: skip


class ToolError(ValueError):
    """A call that cannot be run; the message is one sentence for the policy."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One argument of a tool.

    Attributes:
      name: key in the call's arguments.
      type: `str`, `bool`, `int`, `float`, `dict` or `list`, the Python type of the JSON value.
      required: whether a call without it is refused.
      description: for the full system prompt and the JSON schema.
      default: what the tool uses when an optional argument is left out, if worth saying.
      minimum, maximum: bounds of a number.
      aliases: other names that are understood.
      read: brings a value into its one canonical form, in place of the check by type; raises
        `ToolError` for one that has none.
    """

    name: str
    type: type
    required: bool
    description: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    aliases: tuple[str, ...] = ()
    read: Callable[[Any], Any] | None = None


@dataclasses.dataclass(frozen=True)
class ToolResult:
    """What a handler returns.

    Attributes:
      text: what the policy reads; where not `ok`, the sentence that says what was wrong.
      ok: whether the tool did its work.
      effect: what became of the long-term memory or the context, which is what rewards count.
        None where nothing has changed there: a filter that matched nothing did its work
        without an effect.
      memory_id: the entry added, updated or deleted.
      content: the content stored, or the summary written.
      retrieved: the entries that a retrieval found, best first.
    """

    text: str
    ok: bool = True
    effect: Literal["added", "updated", "deleted", "retrieved", "reduced"] | None = None
    memory_id: str | None = None
    content: str | None = None
    retrieved: tuple[RetrievedEntry, ...] = ()


# A generator of `rollout.requests` that returns a `ToolResult`, given the episode's state
# (`rollout.tool_use.ToolUse`) and the checked arguments; or a plain function of the arguments
# by name that returns text or a `ToolResult`, which is run in a thread.
Handler = Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class ToolSpec:
    """One tool.

    Attributes:
      name: as the policy calls it.
      target: what it works on: "LTM" (long-term memory), "STM" (the context), "environment", or
        "other".
      parameters: required ones first.
      description: for the full system prompt and the JSON schema.
      summary: the same in a few words, for the compact system prompt.
      example: arguments of a good call.
      handler: what runs it (see `Handler`).
      timeout: seconds that a handler that is a plain function may take.
    """

    name: str
    target: Literal["LTM", "STM", "environment", "other"]
    parameters: tuple[Parameter, ...]
    description: str
    summary: str
    example: Mapping[str, Any]
    handler: Handler | None = None
    timeout: float = 30.0


@dataclasses.dataclass(frozen=True)
class ToolCall:
    """A call that passed `validate`: known tool, canonical and complete arguments."""

    name: str
    arguments: Mapping[str, Any]


class ToolTable:
    """The tools of an episode, checked for gaps.

    Attributes:
      specs: in the order in which prompts list them.
      names: theirs.
    """

    def __init__(self, specs: Sequence[ToolSpec]):
        """Raises:
        ValueError: a tool cannot run or be called, or two have one name.
        """
        self.specs = tuple(specs)
        self.names = tuple(spec.name for spec in self.specs)
        self._by_name = dict(zip(self.names, self.specs, strict=True))
        if len(self._by_name) != len(self.specs):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"Two tools have the name {twice}; each needs its own.")
        for spec in self.specs:
            _check_spec(spec)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> ToolSpec:
        return self._by_name[name]

    def __len__(self) -> int:
        return len(self.specs)

    def schemas(self) -> list[dict[str, Any]]:
        """The tools as function schemas of the OpenAI chat API (JSON Schema)."""
        return [_schema(tool) for tool in self.specs]

    def compact_schemas(self) -> str:
        """One short line per tool with its required arguments, for small models."""
        lines = []
        for tool in self.specs:
            arguments = ", ".join(p.name for p in tool.parameters if p.required)
            lines.append(f"{tool.name}({arguments}): {tool.summary}")
        return "\n".join(lines)

    def validate(self, name: Any, arguments: Any) -> ToolCall:
        """Checks a call and brings its arguments into their one canonical form.

        Lenient only where one reading exists: an alias means its argument; a number may be
        "3" or 3.0; a boolean may be "true" or "false"; an optional argument that is null counts
        as left out. Strings lose surrounding blanks. Optional arguments that are left out stay
        out, so that the tool's own defaults apply.

        Args:
          name: the tool, as written.
          arguments: the decoded JSON value of the arguments.

        Raises:
          ToolError: with one sentence that says what to do instead.
        """
        if not isinstance(name, str) or name not in self._by_name:
            there = f"use one of {', '.join(self.names)}." if self.names else "there are none."
            raise ToolError(f"There is no tool {shown(name)}; {there}")
        if not isinstance(arguments, Mapping):
            raise ToolError(
                f"The arguments of {name} must be a JSON object, not {shown(arguments)}."
            )
        tool = self._by_name[name]
        given = _resolve_aliases(tool, arguments)
        checked = {}
        for parameter in tool.parameters:
            value = given.get(parameter.name)
            if value is None:
                if parameter.required:
                    raise ToolError(f"{name} needs the argument {parameter.name}.")
                continue
            checked[parameter.name] = _check(tool, parameter, value)
        return ToolCall(name, checked)


def _check_spec(spec: ToolSpec) -> None:
    """Raises ValueError, in one sentence, for a tool that nobody could call or run."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", spec.name):
        raise ValueError(
            f"A tool has the name {spec.name!r}; it must be letters, digits, _ and -, 64 at most."
        )
    if not callable(spec.handler):
        raise ValueError(f"The tool {spec.name} has no handler, so that it could not be run.")
    names = [p.name for p in spec.parameters]
    for parameter in spec.parameters:
        if parameter.type not in _JSON_TYPES:
            raise ValueError(
                f"{parameter.name} of the tool {spec.name} has the type {parameter.type}; it must "
                f"be one of {', '.join(each.__name__ for each in _JSON_TYPES)}."
            )
        if names.count(parameter.name) > 1:
            raise ValueError(f"The tool {spec.name} has two arguments {parameter.name}.")
    try:
        _check_example(spec)
    except ToolError as error:
        raise ValueError(f"The example of the tool {spec.name} is no good call: {error}") from error


def _check_example(spec: ToolSpec) -> None:
    given = _resolve_aliases(spec, spec.example)
    for parameter in spec.parameters:
        if parameter.name in given:
            _check(spec, parameter, given[parameter.name])
        elif parameter.required:
            raise ToolError(f"it lacks {parameter.name}.")


def _schema(tool: ToolSpec) -> dict[str, Any]:
    properties = {}
    for parameter in tool.parameters:
        entry = {"type": _JSON_TYPES[parameter.type], "description": parameter.description}
        if parameter.default is not None:
            entry["default"] = parameter.default
        for bound in ("minimum", "maximum"):
            if getattr(parameter, bound) is not None:
                entry[bound] = getattr(parameter, bound)
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
    aliases = {alias: p.name for p in tool.parameters for alias in p.aliases}
    given: dict[str, Any] = {}
    for key, value in arguments.items():
        name = aliases.get(key, key)
        if name not in known:
            takes = f"it takes {', '.join(known)}." if known else "it takes none."
            raise ToolError(f"{tool.name} has no argument {shown(key)}; {takes}")
        if name in given:
            raise ToolError(f"{tool.name} got {name} twice, under two names; give it once.")
        given[name] = value
    return given


def _check(tool: ToolSpec, parameter: Parameter, value: Any) -> Any:
    where = f"{parameter.name} of {tool.name}"
    if parameter.read is not None:
        return parameter.read(value)
    if parameter.type in (int, float):
        return _check_number(where, parameter, value)
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


def _check_number(where: str, parameter: Parameter, value: Any) -> int | float:
    number = value
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value.strip()):
        number = int(value)
    elif parameter.type is int and isinstance(value, float) and value.is_integer():
        number = int(value)
    wanted = (int, float) if parameter.type is float else int
    if not isinstance(number, wanted) or isinstance(number, bool):
        raise ToolError(f"{where} must be {_TYPE_NAMES[parameter.type]}, not {shown(value)}.")
    low, high = parameter.minimum, parameter.maximum
    if (low is not None and number < low) or (high is not None and number > high):
        raise ToolError(f"{where} must be {_bounds(low, high)}, not {shown(value)}.")
    return number


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}"


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
