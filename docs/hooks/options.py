"""Writes docs/options.md: every option of a run, from the dataclasses that hold them.

    python docs/hooks/options.py            # again, when an option has changed

What an option means is the sentence of its dataclass's docstring, its type and default are those of
the field. `tests/docs` compares the page with what this makes.
"""

import dataclasses
import inspect
import pathlib
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "options.md"
_BEGIN = """\
# All options

What `--config.NAME=VALUE` sets, what a file of `agemem_jax/configs` changes, and what `config.json`
records. The defaults are those of the library, which a configuration such as `quickstart` changes;
`agemem-train --config=quickstart --help` shows what it makes of them. A wrong name or value is
refused in one sentence before anything is compiled. This page is made from the dataclasses by
`docs/hooks/options.py`.

Tuples are written in quotes, as in `--config.packing.row_lengths="(512, 1024)"`. "Table by name"
means that an option below it is written with a name of yours, such as
`--config.rewards.components.overlong.weight=0.2`.
"""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its whole name, the type as a reader writes it, its default and its meaning."""

    name: str
    type: str
    default: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Group:
    """A dataclass of options. `name` is empty for the outermost."""

    name: str
    cls: type
    options: tuple[Option, ...]


def groups(cls: type, value: Any = dataclasses.MISSING, name: str = "") -> Iterator[Group]:
    """The options of a dataclass and of those that it holds, outermost first.

    Args:
      cls: the dataclass.
      value: what the options stand at; the defaults of the class where it is missing.
      name: of the group, as it stands in front of its options.
    """
    hints = typing.get_type_hints(cls)
    meanings = attributes(cls)
    options, inner = [], []
    for field in dataclasses.fields(cls):
        full = f"{name}.{field.name}" if name else field.name
        default = _default(field) if value is dataclasses.MISSING else getattr(value, field.name)
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            inner.append((hint, default, full))
        else:
            options.append(Option(full, _type(hint), _shown(default), meanings.get(field.name, "")))
            member = _member(hint)
            if member is not None:
                inner.append((member, dataclasses.MISSING, f"{full}.NAME"))
    yield Group(name, cls, tuple(options))
    for hint, default, full in inner:
        yield from groups(hint, default, full)


def attributes(cls: type) -> dict[str, str]:
    """The sentences of the "Attributes" of a docstring, those of base classes included."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        lines = inspect.cleandoc(each.__dict__.get("__doc__") or "").splitlines()
        if "Attributes:" not in lines:
            continue
        name = None
        for line in lines[lines.index("Attributes:") + 1 :]:
            begin = re.match(r"  (\w+(?:, \w+)*): (.*)", line)
            if begin:
                name = begin[1]
                for one in name.split(", "):
                    found[one] = begin[2]
            elif line.startswith("    ") and name:
                for one in name.split(", "):
                    found[one] += f" {line.strip()}"
            elif line.strip():
                break
    return found


def page() -> str:
    """The text of docs/options.md."""
    from agemem_jax.training.configuration.run_config import RunConfig

    parts = [_BEGIN]
    for group in groups(RunConfig):
        if not group.options:
            continue
        title = f"`{group.name}`" if group.name else "The outermost"
        source = f"{group.cls.__module__.replace('.', '/')}.py"
        summary = inspect.cleandoc(group.cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        parts.append(
            f"## {title}\n\n{_cell(summary)} "
            f"([`{group.cls.__module__}:{group.cls.__name__}`](../{source}))\n"
        )
        rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
        for option in group.options:
            rows.append(
                f"| `{option.name}` | {_cell(option.type)} | `{_cell(option.default)}` | "
                f"{_cell(option.meaning)} |"
            )
        parts.append("\n".join(rows) + "\n")
    parts += [_of_parts(*each) for each in _registries()]
    return "\n".join(parts)


def _registries() -> Iterator[tuple[str, str, Any]]:
    from agemem_jax.rewards import registry as rewards
    from agemem_jax.tasks import registry as tasks
    from agemem_jax.training.credit import registry as credit

    yield "Task sources", "tasks.options", tasks.SOURCES
    yield "Components of the reward", "rewards.components.NAME.options", rewards.COMPONENTS
    yield "Credit rules", "grpo.credit_options", credit.RULES


def _of_parts(title: str, prefix: str, registry: Any) -> str:
    """The options of the parts of one kind: their fields, as each part explains them."""
    lines = [
        f"## {title}\n\nWhat stands below `{prefix}` depends on the part that is named.\n",
        "| part | option | type | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for name in registry.names:
        part = registry.find(name)
        for group in groups(part) if dataclasses.is_dataclass(part) else ():
            for option in group.options:
                lines.append(
                    f"| `{name}` | `{option.name}` | {_cell(option.type)} | "
                    f"`{_cell(option.default)}` | {_cell(option.meaning)} |"
                )
    return "\n".join(lines) + "\n"


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _member(hint: Any) -> type | None:
    """The dataclass that a mapping holds by name."""
    for each in (hint, *typing.get_args(hint)):
        if typing.get_origin(each) is Mapping:
            member = typing.get_args(each)[1]
            return member if dataclasses.is_dataclass(member) else None
    return None


def _type(hint: Any) -> str:
    """A type in words that a reader of a command line needs."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        rest = [each for each in arguments if each is not types.NoneType]
        words = [_type(each) for each in rest] + ["None"] * (len(rest) < len(arguments))
        return " or ".join(dict.fromkeys(words))
    if origin is typing.Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        inner = _type(arguments[0])
        return f"tuple of {inner}" if Ellipsis in arguments else f"{len(arguments)} of {inner}"
    if origin is Mapping:
        return "table by name"
    names = {int: "integer", float: "number", str: "text", bool: "True or False"}
    return names.get(hint, "a name, or from Python an object")


def _shown(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "must be given"
    if isinstance(value, Mapping):
        return f"{{{', '.join(value)}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))}{',' * (len(value) == 1)})"
    return repr(value)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page())
