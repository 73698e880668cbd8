"""What a reward component returns, where it is more than a number."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Score:
    """A component's value and what it is made of.

    Attributes:
      value: of the component.
      parts: by name, for metrics and reports; names differ between components.
    """

    value: float
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)


def mean_of(**parts: float) -> Score:
    """The mean of its parts."""
    return Score(sum(parts.values()) / len(parts), parts)
