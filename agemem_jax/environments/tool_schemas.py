"""Tools of environments from JSON schemas, as functions and servers describe themselves.

What these say of an argument beyond our `Parameter`, such as which values there are, is told in
its description.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_jax.protocol.tools import Parameter, ToolError, ToolSpec, shown

_TYPES = {
    "string": str, "boolean": bool, "integer": int, "number": float, "object": dict, "array": list,
}  # fmt: skip
_EXAMPLES = {str: "...", bool: True, int: 1, float: 1.0, dict: {}, list: []}


def tool_from_schema(name: str, description: str, schema: Mapping[str, Any]) -> ToolSpec:
    """The tool `name`, for an environment that runs it.

    Args:
      name: of the tool.
      description: what it does; the first sentence alone appears in short prompts.
      schema: of its arguments: a JSON schema of an object.
    """
    properties, required = schema.get("properties", {}), schema.get("required", ())
    order = sorted(properties, key=lambda argument: argument not in required)
    described = [_described(properties[argument]) for argument in order]
    parameters = [
        _parameter(name, argument, each, argument in required)
        for argument, each in zip(order, described, strict=True)
    ]
    text = " ".join(description.split()) or name
    return ToolSpec(
        name=name,
        target="environment",
        parameters=tuple(parameters),
        description=text,
        summary=text.split(". ")[0].rstrip("."),
        example={
            parameter.name: _example(parameter, each)
            for parameter, each in zip(parameters, described, strict=True)
            if parameter.required
        },
    )


def _described(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of an argument without the choice between a value and null."""
    choices = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    return {**schema, **choices[0]} if len(choices) == 1 else schema


def _parameter(tool: str, name: str, schema: Mapping[str, Any], required: bool) -> Parameter:
    kind, values = schema.get("type"), schema.get("enum")
    known = _TYPES.get(kind) if isinstance(kind, str) else None
    said = [" ".join(schema.get("description", "").split())]
    read = None if known else _anything
    if values:
        said.append(f"One of {', '.join(str(value) for value in values)}.")
        read = functools.partial(_one_of, f"{name} of {tool}", tuple(values))
    if known is list and isinstance(schema.get("items", {}).get("type"), str):
        said.append(f"A list; each is of type {schema['items']['type']}.")
    return Parameter(
        name, known or str, required, " ".join(filter(None, said)), schema.get("default"),
        schema.get("minimum"), schema.get("maximum"), read=read,
    )  # fmt: skip


def _anything(value: Any) -> Any:
    """An argument that may be of several types: the environment judges it."""
    return value


def _one_of(where: str, values: Sequence[Any], value: Any) -> Any:
    """The value that is meant; "2" means 2, and "Red" means "red" where that is one of them."""
    for same in (lambda each: each == value, lambda each: str(each).lower() == _plain(value)):
        found = [each for each in values if same(each)]
        if found:
            return found[0]
    allowed = ", ".join(str(each) for each in values)
    raise ToolError(f"{where} must be one of {allowed}, not {shown(value)}.")


def _plain(value: Any) -> str:
    return str(value).strip().lower()


def _example(parameter: Parameter, schema: Mapping[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    value = _EXAMPLES[parameter.type]
    if parameter.type in (int, float):
        low, high = parameter.minimum, parameter.maximum
        value = value if low is None else max(value, low)
        value = value if high is None else min(value, high)
    return value
