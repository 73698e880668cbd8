"""Where a run stands by the evaluations inside its training, as checkpoints hold it."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Standing:
    """What the evaluations so far have shown; higher values are better.

    Attributes:
      settings: tells what they were made by; values of other settings are not compared.
      evaluated: step of the last one; -1 before the first.
      value: what it gave; None where no episode could be played to its end.
      best_step, best_value: of the best one of the run, the first of several alike.
      phase_best: the best value that the phase under way has seen, its start included.
      without_gain: evaluations of this phase since then.
    """

    settings: str = ""
    evaluated: int = -1
    value: float | None = None
    best_step: int | None = None
    best_value: float | None = None
    phase_best: float | None = None
    without_gain: int = 0

    def after(self, step: int, value: float | None) -> "Standing":
        """Behind an evaluation at `step`; one without a value is no gain and no loss."""
        standing = dataclasses.replace(self, evaluated=step, value=value)
        if value is None:
            return standing
        if self.phase_best is None or value > self.phase_best:
            standing = dataclasses.replace(standing, phase_best=value, without_gain=0)
        else:
            standing = dataclasses.replace(standing, without_gain=self.without_gain + 1)
        if self.best_value is None or value > self.best_value:
            standing = dataclasses.replace(standing, best_step=step, best_value=value)
        return standing

    def in_next_phase(self) -> "Standing":
        """At the start of a phase, which counts anew from where the last one ended."""
        return dataclasses.replace(self, phase_best=self.value, without_gain=0)

    def to_record(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], settings: str) -> "Standing":
        """The inverse; evaluations of other settings are as if they had not been."""
        if record.get("settings") != settings:
            return cls(settings)
        return cls(**record)
