"""Where numbers go: `metrics.jsonl` in the work directory, and the sinks of the run.

Every line of `metrics.jsonl` is one iteration, or an evaluation behind one, whose names begin
with "eval/". Values that depend on the clock stand under "timing", so that two runs of the same
seed can be compared on all the rest.
"""

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from agemem_jax.training.monitoring.sinks.registry import GuardedSink, Run, is_local


class MetricsWriter:
    """Appends to the metrics of a run; a resumed run continues its own file.

    In a job of several processes one is `enabled`; the others write nothing. A line that the
    disk does not take is kept, and written with the next one.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        enabled: bool = True,
        sinks: Sequence[str] = ("tensorboard",),
    ):
        """Opens nothing yet.

        Args:
          workdir: of the run.
          enabled: whether this process writes.
          sinks: see `MetricsConfig.sinks`.

        Raises:
          ValueError, ImportError: a sink is not known, or needs what is not installed.
        """
        self.path = epath.Path(workdir) / "metrics.jsonl"
        self._enabled = enabled
        self._unwritten = ""
        self._sinks = [GuardedSink(name) for name in sinks] if enabled else []
        self._opened = False
        if enabled:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def open(self, step: int = 0, config: Mapping[str, Any] | None = None) -> None:
        """Tells the sinks which run it is, and after which step it goes on."""
        self._opened = True
        for sink in self._sinks:
            sink.open(Run(os.fspath(self.path.parent), step, config or {}))

    def forget_after(self, step: int, evaluated: int | None = None) -> None:
        """Drops the lines past `step`, which a resumed run writes again.

        Likewise those of evaluations past the step `evaluated`, by default the same.
        """
        if not self._enabled or not self.path.exists():
            return
        last = step if evaluated is None else min(step, evaluated)
        kept = [
            line
            for line in read_metrics(self.path)
            if line["step"] <= (last if is_evaluation(line) else step)
        ]
        rewritten = self.path.with_suffix(".tmp")
        rewritten.write_text("".join(json.dumps(line) + "\n" for line in kept))
        rewritten.replace(self.path)

    def write(self, step: int, values: Mapping[str, Any], timing: Mapping[str, float]) -> None:
        """Adds one line, in the file and to all sinks."""
        if not self._enabled:
            return
        if not self._opened:
            self.open()
        values, timing = _plain(values), _plain(timing)
        self._unwritten += json.dumps({"step": step, **values, "timing": timing}) + "\n"
        self._append()
        for sink in self._sinks:
            sink.write(step, values, timing)

    def _append(self) -> None:
        """All that is unwritten or, as a line cut in half would end the file, nothing."""
        size = self.path.stat().length if self.path.exists() else 0
        try:
            if is_local(self.path):
                with self.path.open("a") as file:
                    file.write(self._unwritten)
            else:  # objects of a bucket take no additions
                before = self.path.read_text() if size else ""
                self.path.write_text(before + self._unwritten)
        except OSError as error:
            logging.error("%s could not be written, keeping its lines: %s", self.path, error)
            if is_local(self.path):
                with contextlib.suppress(OSError):
                    os.truncate(self.path, size)
            return
        self._unwritten = ""

    def close(self) -> None:
        if self._enabled:
            if self._unwritten:
                self._append()
            for sink in self._sinks:
                sink.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut off by a crash is left out."""
    lines = []
    for text in epath.Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def is_evaluation(line: Mapping[str, Any]) -> bool:
    """Whether a line of `metrics.jsonl` tells of an evaluation, and not of an iteration."""
    return any(name.startswith("eval/") for name in line)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Device scalars as Python numbers; what is not finite as None, as JSON demands."""
    plain = {}
    for name, value in values.items():
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, float):
            # Six digits wherever the point is: learning rates are small, and mean something.
            value = float(f"{value:.6g}") if math.isfinite(value) else None
        plain[name] = value
    return plain
