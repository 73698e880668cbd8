"""How each field of a request is treated, told once: checks and documentation read the same.

A field is supported, ignored (it changes nothing that an answer shows), or refused unless it
has its neutral value. A field that stands in no table is refused.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Field

Treatment = Literal["supported", "ignored", "refused"]


class Table(pydantic.BaseModel):
    """A request, or a part of one: what is not named here is refused."""

    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


def supported(meaning: str, default: Any = None, **limits: Any) -> Any:
    """A field that does what OpenAI's reference says, within `limits`."""
    return Field(default, description=meaning, json_schema_extra={"as": "supported"}, **limits)


def required(meaning: str, **limits: Any) -> Any:
    """A supported field that must be given."""
    return Field(description=meaning, json_schema_extra={"as": "supported"}, **limits)


def ignored(meaning: str) -> Any:
    return Field(None, description=meaning, json_schema_extra={"as": "ignored"})


def refused(meaning: str) -> Any:
    return Field(None, description=meaning, json_schema_extra={"as": "refused"})


def _only(*neutral: Any) -> AfterValidator:
    def check(value: Any) -> Any:
        if value is None or value in neutral:
            return value
        raise ValueError("is not supported by this server; leave it out")

    return AfterValidator(check)


# Types of refused fields, by the values that stand for "not asked for".
Absent = Annotated[Any, _only()]
Zero = Annotated[Any, _only(0)]
Empty = Annotated[Any, _only({}, [])]
NotTrue = Annotated[Any, _only(False)]
TextOnly = Annotated[Any, _only(["text"])]


def rows(table: type[Table]) -> Iterator[tuple[str, Treatment, str]]:
    """Name, treatment and meaning of each field."""
    for name, field in table.model_fields.items():
        yield name, field.json_schema_extra["as"], field.description


def markdown(table: type[Table]) -> str:
    """The conformance table of a request."""
    order = ("supported", "ignored", "refused")
    lines = ["| field | | |", "|---|---|---|"]
    for name, treatment, meaning in sorted(rows(table), key=lambda row: order.index(row[1])):
        lines.append(f"| `{name}` | {treatment} | {meaning} |")
    return "\n".join(lines)


def explain(error: pydantic.ValidationError) -> tuple[str, str | None]:
    """One sentence about the first thing that is wrong, and the field that it is in."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or None
    told = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        told = "is no field that this server knows"
    return (f"{param}: {told}." if param else f"The body is wrong: {told}."), param
