"""The table of sinks, what a sink is, and how a run stays alive when one fails."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from absl import logging

from agemem_jax.plugins.registry import Registry, checked_options, split

SINKS = Registry(
    "sink",
    {
        "tensorboard": "agemem_jax.training.monitoring.sinks.tensorboard:TensorBoard",
        "wandb": "agemem_jax.training.monitoring.sinks.wandb:WandB",
    },
)
_GIVE_UP_AFTER = 5  # failures in a row


@dataclasses.dataclass(frozen=True)
class Run:
    """What a sink is told of the run whose metrics it gets.

    Attributes:
      workdir: of the run.
      step: after which it goes on; 0 for a run that begins.
      config: all options, as JSON values.
    """

    workdir: str
    step: int = 0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Sink(Protocol):
    """Takes the lines of `metrics.jsonl` as they come, in the first process of a job.

    One that has a method `open(run: Run)` is called there before the first line.
    """

    def write(self, step: int, values: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Takes one line.

        Args:
          step: of the run. An iteration and an evaluation after it have the same one.
          values: numbers, or text; None where a number was not finite.
          timing: what depends on the machine.
        """
        ...

    def close(self) -> None:
        """The run ends, or is interrupted."""
        ...


def check_sinks(names: Sequence[str]) -> None:
    """Compares names and options with what there is; imports nothing that sinks need.

    Raises:
      ValueError: in one sentence.
    """
    for each in names:
        try:
            name, options = split(each)
            part = SINKS.find(name)
            checked_options(part, options, f"metrics.sinks, {name},")
        except ValueError as error:
            told = str(error)
            raise ValueError(
                told if "metrics.sinks" in told else f"metrics.sinks: {told}"
            ) from error
        missing = [method for method in ("write", "close") if not hasattr(part, method)]
        if missing:
            raise ValueError(
                f"metrics.sinks: {name} has no {missing[0]}; a sink has write(step, values, "
                "timing) and close()."
            )


class GuardedSink:
    """A sink that cannot end a run.

    What it raises is said once, and the line is lost to it; it gets the next one all the same,
    until it has failed several times in a row.
    """

    def __init__(self, name: str):
        """Builds the sink that is named.

        Raises:
          ValueError: see `check_sinks`.
          ImportError: a package that it needs is missing.
        """
        self._name = split(name)[0]
        self._sink = SINKS.build(name)
        self._told = False
        self._failures = 0
        self._run: Run | None = None

    def open(self, run: Run) -> None:
        self._run = run
        if hasattr(self._sink, "open"):
            self._try("open", run)

    def write(self, step: int, values: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        if self._failures < _GIVE_UP_AFTER:
            self._try("write", step, values, timing)

    def close(self) -> None:
        self._try("close")

    def _try(self, method: str, *arguments: Any) -> None:
        try:
            getattr(self._sink, method)(*arguments)
        except Exception as error:  # whatever a user's sink, or a service's client, does
            self._failures += 1
            if not self._told:
                self._told = True
                logging.exception(
                    "The sink %s failed in %s (%s: %s). The run goes on; metrics.jsonl has "
                    "everything.", self._name, method, type(error).__name__, error,
                )  # fmt: skip
            if self._failures == _GIVE_UP_AFTER:
                logging.error(
                    "The sink %s has failed %d times in a row and gets nothing any more.",
                    self._name, self._failures,
                )  # fmt: skip
        else:
            self._failures = 0


def numbers(values: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, float]:
    """What of a line can be drawn."""
    together = {**values, **timing}
    return {name: value for name, value in together.items() if isinstance(value, float | int)}


def is_local(path: str | os.PathLike) -> bool:
    """Whether a path is one of this machine's file system, and not of a bucket."""
    return "://" not in os.fspath(path)
