"""Whether the value of an option is of the kind that its dataclass declares.

Ranges are checked by the dataclasses themselves; this is what all of them rely on: numbers
are finite, whole where whole numbers are meant, and never truth values.
"""

import collections.abc
import math
import types
import typing
from typing import Any, Literal


def knows(hint: Any) -> bool:
    """Whether `checked` can tell what an option with this annotation takes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return True
    if origin in (types.UnionType, typing.Union):
        return all(each is types.NoneType or knows(each) or _is_object(each) for each in arguments)
    if origin is tuple:
        return len(arguments) == 2 and arguments[1] is Ellipsis and knows(arguments[0])
    return hint in _ACCEPTED


def checked(hint: Any, value: Any, name: str) -> Any:
    """`value` as an option annotated with `hint` holds it: lists become tuples.

    Args:
      hint: int, float, str, bool, a `Literal`, `tuple[X, ...]`, or one of them or None; or one
        of them or an object of a class, or a function.
      value: as a configuration gives it.
      name: of the option, for the sentence.

    Raises:
      ValueError: it is of another kind, or a number that is not finite.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        if any(_is_object(each) and _is_one(value, each) for each in arguments):
            return value
        hint = next(each for each in arguments if each is not types.NoneType)
        return checked(hint, value, name)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(arguments)}.")
        return value
    if origin is tuple:
        if not isinstance(value, tuple | list):
            raise ValueError(f"{name} is {value!r}; it must be a list, such as ({value!r},).")
        return tuple(checked(arguments[0], each, f"{name}, in {value!r},") for each in value)
    if isinstance(value, bool) != (hint is bool) or not isinstance(value, _ACCEPTED[hint]):
        raise ValueError(f"{name} is {value!r}; it must be {_NAMES[hint]}.")
    if hint is int and abs(value) > _LARGEST:
        raise ValueError(f"{name} is {value}; it must be at most {_LARGEST}.")
    if hint is float:
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it must be a finite number.")
        return float(value)
    return value


_LARGEST = 2**32 - 1  # seeds go that far, and sizes not by far
_ACCEPTED = {int: int, float: (int, float), str: str, bool: bool}
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}


def _is_object(hint: Any) -> bool:
    """Whether an annotation asks for an object that no configuration file could write down."""
    return typing.get_origin(hint) is collections.abc.Callable or (
        isinstance(hint, type) and hint not in _ACCEPTED and hint is not types.NoneType
    )


def _is_one(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is collections.abc.Callable:
        return callable(value)
    return isinstance(value, hint)
