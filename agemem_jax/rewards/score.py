"""What a reward component returns, where it is more than a number."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Score:
    """A component's value and what it is made of.

    Attributes:
      value: of the component.
      parts: by name, for metrics and reports; names differ between components. None stands for
        one that was not at stake in this trajectory.
    """

    value: float
    parts: Mapping[str, float | None] = dataclasses.field(default_factory=dict)


def mean_of(**parts: float | None) -> Score:
    """The mean of its parts; those that are None are left out, one at least is not."""
    counted = [part for part in parts.values() if part is not None]
    return Score(sum(counted) / len(counted), parts)
