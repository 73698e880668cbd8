"""Where numbers go: `metrics.jsonl` and TensorBoard events in the work directory.

Every line of `metrics.jsonl` is one iteration. Values that depend on the clock stand
under "timing", so that two runs of the same seed can be compared on all the rest.
"""

import contextlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from absl import logging
from tensorboardX import SummaryWriter


class MetricsWriter:
    """Appends to the metrics of a run; a resumed run continues its own file.

    In a job of several processes one is `enabled`; the others write nothing. A line that the
    disk does not take is kept, and written with the next one.
    """

    def __init__(self, workdir: str | os.PathLike, *, enabled: bool = True):
        self.path = pathlib.Path(workdir) / "metrics.jsonl"
        self._enabled = enabled
        self._unwritten = ""
        if enabled:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._events = SummaryWriter(str(self.path.parent / "tensorboard"), flush_secs=10)

    def forget_after(self, step: int) -> None:
        """Drops the lines past `step`, which a resumed run writes again."""
        if not self._enabled or not self.path.exists():
            return
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        with tempfile.NamedTemporaryFile(
            "w", dir=self.path.parent, prefix=".metrics", delete=False
        ) as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        os.replace(file.name, self.path)

    def write(self, step: int, values: Mapping[str, Any], timing: Mapping[str, float]) -> None:
        """Adds one line; floats in TensorBoard, everything in the file."""
        if not self._enabled:
            return
        line = {"step": step, **_plain(values), "timing": _plain(timing)}
        self._unwritten += json.dumps(line) + "\n"
        self._append()
        for name, value in {**line, **line["timing"]}.items():
            if isinstance(value, float | int) and name != "step":
                self._events.add_scalar(name, value, step)

    def _append(self) -> None:
        """All that is unwritten or, as a line cut in half would end the file, nothing."""
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a") as file:
                file.write(self._unwritten)
        except OSError as error:
            logging.error("%s could not be written, keeping its lines: %s", self.path, error)
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)
            return
        self._unwritten = ""

    def close(self) -> None:
        if self._enabled:
            if self._unwritten:
                self._append()
            self._events.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut off by a crash is left out."""
    lines = []
    for text in pathlib.Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Device scalars as Python numbers; what is not finite as None, as JSON demands."""
    plain = {}
    for name, value in values.items():
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, float):
            value = round(value, 6) if math.isfinite(value) else None
        plain[name] = value
    return plain
