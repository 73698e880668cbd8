"""Parts by name: those that come with the library, and a user's own.

A name is registered, or `package.module:attribute`, which is imported; a part may also be
given as the object itself. A part with options is a class or a function: what it
takes by keyword are the options, and their annotations say what values they take.
"""

import ast
import dataclasses
import difflib
import functools
import importlib
import inspect
import json
import os
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any

from agemem_jax.plugins import option_values

_OPTIONS = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Registry:
    """The parts of one kind that come with the library; they are imported when asked for.

    Attributes:
      noun: what they are, for sentences, such as "environment".
      names: of the registered ones, in order.
    """

    def __init__(self, noun: str, entries: Mapping[str, str]):
        """Args:
        noun: what the parts are.
        entries: `package.module:attribute` by name.
        """
        self.noun = noun
        self._entries = dict(entries)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def find(self, part: Any) -> Any:
        """The part that is named, or `part` itself where it is no text.

        Raises:
          ValueError: there is none, in a sentence that names what there is.
        """
        if not isinstance(part, str):
            return part
        if part in self._entries:
            return load(self._entries[part])
        if ":" in part:
            try:
                return load(part)
            except ValueError as error:
                raise ValueError(f"The {self.noun} {part!r}: {error}") from error
        close = difflib.get_close_matches(part, self._entries, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(
            f"There is no {self.noun} {part!r}; it must be one of {', '.join(self._entries)}, or "
            f"your own as package.module:attribute{hint}"
        )

    def complete(self, part: Any, options: Mapping[str, Any], where: str) -> dict[str, Any]:
        """All options of a part, those that are left out with their defaults.

        Raises:
          ValueError: there is no such part, or an option is unknown or has a wrong value.
        """
        part = self.find(part)
        bind(part, options, where)
        return {**options_of(part), **checked_options(part, options, where)}

    def build(self, part: Any, options: Mapping[str, Any] | None = None, where: str = "") -> Any:
        """The part with its options: `bind` of what `find` finds.

        A name may carry options of its own, as in `"counter(start=3)"`.
        """
        if isinstance(part, str):
            part, own = split(part)
            options = {**own, **(options or {})}
            where = where or part
        return bind(self.find(part), options or {}, where or self.noun)


def load(path: str) -> Any:
    """What `package.module:attribute` names. The working directory is looked into, too.

    Raises:
      ValueError: it cannot be imported, or there is no such attribute.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{path!r} must be written package.module:attribute.")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # behind all else: nothing that is installed is hidden
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # a package that the user's module needs
        raise ValueError(
            f"there is no module {module_name!r}, here or among the installed ones."
        ) from error
    value = module
    for name in attribute.split("."):
        if not hasattr(value, name):
            raise ValueError(f"{module_name} has no {attribute!r}.")
        value = getattr(value, name)
    return value


def split(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of `"name(option=value, ...)"`, where values are literals.

    Raises:
      ValueError: it is written in another way.
    """
    name, bracket, _ = text.partition("(")
    if not bracket:
        return text, {}
    try:
        call = ast.parse("part" + text[len(name) :], mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError
        return name, {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"{text!r} must be a name, or a name with options such as name(size=3, mode='easy')."
        ) from error


def name_of(part: Any) -> str:
    """How a part that was given as an object is named in a record.

    Raises:
      ValueError: it cannot be found again by a name, as a function inside of a function cannot.
    """
    if isinstance(part, str):
        return part
    name, module = getattr(part, "__qualname__", None), getattr(part, "__module__", None)
    if name is None or module is None or "<" in name:
        raise ValueError(
            f"{part!r} cannot be named in the record of a run; give a class or a function that "
            "stands in a module by itself, or its name as package.module:attribute."
        )
    return f"{module}:{name}"


def options_of(part: Any) -> dict[str, Any]:
    """The options of a class or function with their defaults; none of any other object."""
    options = _parameters(part).items()
    return {name: None if default is _REQUIRED else default for name, (default, _) in options}


def bind(part: Any, options: Mapping[str, Any], where: str) -> Any:
    """A part with its options: an instance of a class, a function that has them already.

    Args:
      part: a class, a function, or an object without options.
      options: by name; what is left out has its default.
      where: the options stand in the configuration, for sentences.

    Raises:
      ValueError: an option is unknown or has a wrong value.
    """
    known, checked = _parameters(part), checked_options(part, options, where)
    if not inspect.isclass(part):
        return functools.partial(part, **checked) if checked else part
    try:
        return part(**checked)
    except ValueError as error:  # which begins with the name of an option, or tells of several
        first = str(error).split(maxsplit=1)[:1]
        joint = "." if first and first[0] in known else ": "
        raise ValueError(f"{where}{joint}{error}") from error


def checked_options(part: Any, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options as the part takes them: lists become tuples, whole numbers floats.

    Raises:
      ValueError: one is unknown, missing, or of another type.
    """
    known = _parameters(part)
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            has = f"it has {', '.join(known)}" if known else "it has none"
            hint = f"did you mean {close[0]!r}?" if close else f"{has}."
            raise ValueError(f"{where} has no option {name!r}; {hint}")
    missing = [n for n, option in known.items() if option.default is _REQUIRED and n not in options]
    if missing:
        raise ValueError(f"{where} needs the option {missing[0]!r}.")
    return {n: _checked(known[n].hint, value, f"{where}.{n}") for n, value in options.items()}


_REQUIRED = inspect.Parameter.empty


class _Option(typing.NamedTuple):
    default: Any
    hint: Any


def _parameters(part: Any) -> dict[str, _Option]:
    return _parameters_of(part) if inspect.isclass(part) or inspect.isfunction(part) else {}


@functools.lru_cache(maxsize=256)
def _parameters_of(part: Any) -> dict[str, _Option]:
    """The options of a part: what a class takes, and what a function takes by keyword."""
    is_class = inspect.isclass(part)
    if is_class and part.__init__ is object.__init__:
        return {}
    function = part.__init__ if is_class else part
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # a name that only type checkers see
        hints = {}
    factories = _factories(part) if is_class else {}
    options: dict[str, _Option] = {}
    for name, parameter in inspect.signature(part).parameters.items():
        by_keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        named = by_keyword or parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if named and (is_class or by_keyword or parameter.default is not _REQUIRED):
            default = factories[name]() if name in factories else parameter.default
            options[name] = _Option(default, hints.get(name))
    return options


def _factories(part: type) -> dict[str, Callable[[], Any]]:
    """What makes the defaults of a dataclass's fields that have no fixed one."""
    fields = dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()
    missing = dataclasses.MISSING
    return {f.name: f.default_factory for f in fields if f.default_factory is not missing}


def _checked(hint: Any, value: Any, name: str) -> Any:
    if hint is None or not option_values.knows(hint):
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(f"{name} is {value!r}; it must be a value of JSON.") from error
        return value
    return option_values.checked(hint, value, name)
