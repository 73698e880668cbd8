"""What went wrong and was survived: counted by name, and too much of it ends the run."""

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from absl import logging


class TrainingFault(ValueError):
    """Going on makes no sense; the sentence says why, and what is left."""


@dataclasses.dataclass(frozen=True)
class FaultConfig:
    """How much a run puts up with.

    Attributes:
      max_skipped_updates: so many updates in a row with a loss or a gradient that is not
        finite end the run. Each one is skipped: parameters stay as they were.
      max_failed_episodes: so many failed episodes in one iteration end the run. A failed
        one (its environment crashed or hung) counts neither in its group nor in the update.
    """

    max_skipped_updates: int = 3
    max_failed_episodes: int = 16

    def __post_init__(self):
        for name in ("max_skipped_updates", "max_failed_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"faults.{name} is {getattr(self, name)}; it must be at least 1.")


class Faults:
    """Counts since the last metrics were written."""

    def __init__(self, config: FaultConfig):
        self._config = config
        self._counts: collections.Counter[str] = collections.Counter()
        self._skipped_in_a_row = 0

    def count(self, name: str, error: object) -> None:
        """Logs a fault and counts it."""
        logging.error("%s: %s", name, error)
        self._counts[name] += 1

    def watch_update(self, step: int, values: Mapping[str, Any]) -> None:
        """Looks at what an update returned.

        Raises:
          TrainingFault: too many in a row were skipped.
        """
        finite = all(math.isfinite(float(values[name])) for name in ("loss", "grad_norm"))
        self._skipped_in_a_row = 0 if finite else self._skipped_in_a_row + 1
        if finite:
            return
        self.count(
            "skipped_updates",
            f"step {step + 1} has loss {float(values['loss'])} and a gradient of norm "
            f"{float(values['grad_norm'])}; parameters stay as they were",
        )
        if self._skipped_in_a_row >= self._config.max_skipped_updates:
            raise TrainingFault(
                f"{self._skipped_in_a_row} updates in a row had a loss or a gradient that is not "
                "finite. The parameters are those before them, and the newest checkpoint is "
                "sound: lower optimizer.learning_rate or look at the rewards, then go on from it."
            )

    def watch_episodes(self, faults: list[str]) -> None:
        """Counts failed episodes of one iteration, given as sentences.

        Raises:
          TrainingFault: there were too many.
        """
        for fault in faults:
            self.count("failed_episodes", fault)
        if len(faults) >= self._config.max_failed_episodes:
            raise TrainingFault(
                f"{len(faults)} episodes of one iteration failed, the last one like this: "
                f"{faults[-1]}. faults.max_failed_episodes is {self._config.max_failed_episodes}."
            )

    def take(self) -> dict[str, int]:
        """What was counted since the last call, as metrics."""
        counts = {f"faults/{name}": count for name, count in sorted(self._counts.items())}
        self._counts.clear()
        return counts
