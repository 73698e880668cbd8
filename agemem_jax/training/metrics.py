"""Where numbers go: `metrics.jsonl` and TensorBoard events in the work directory.

Every line of `metrics.jsonl` is one iteration. Values that depend on the clock stand
under "timing", so that two runs of the same seed can be compared on all the rest.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar


class MetricsWriter:
    """Appends to the metrics of a run; a resumed run continues its own file.

    In a job of several processes one is `enabled`; the others write nothing. A line that the
    disk does not take is kept, and written with the next one.
    """

    def __init__(self, workdir: str | os.PathLike, *, enabled: bool = True):
        self.path = epath.Path(workdir) / "metrics.jsonl"
        self._enabled = enabled
        self._unwritten = ""
        self._events = _Events(self.path.parent / "tensorboard") if enabled else None
        if enabled:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def forget_after(self, step: int) -> None:
        """Drops the lines past `step`, which a resumed run writes again."""
        if not self._enabled or not self.path.exists():
            return
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        rewritten = self.path.with_suffix(".tmp")
        rewritten.write_text("".join(json.dumps(line) + "\n" for line in kept))
        rewritten.replace(self.path)

    def write(self, step: int, values: Mapping[str, Any], timing: Mapping[str, float]) -> None:
        """Adds one line; floats in TensorBoard, everything in the file."""
        if not self._enabled:
            return
        line = {"step": step, **_plain(values), "timing": _plain(timing)}
        self._unwritten += json.dumps(line) + "\n"
        self._append()
        values = {**line, **line["timing"]}
        numbers = {k: v for k, v in values.items() if isinstance(v, float | int) and k != "step"}
        self._events.write(step, numbers)

    def _append(self) -> None:
        """All that is unwritten or, as a line cut in half would end the file, nothing."""
        size = self.path.stat().length if self.path.exists() else 0
        try:
            if _is_local(self.path):
                with self.path.open("a") as file:
                    file.write(self._unwritten)
            else:  # objects of a bucket take no additions
                before = self.path.read_text() if size else ""
                self.path.write_text(before + self._unwritten)
        except OSError as error:
            logging.error("%s could not be written, keeping its lines: %s", self.path, error)
            if _is_local(self.path):
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
    for text in epath.Path(path).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _is_local(path: epath.Path) -> bool:
    return "://" not in os.fspath(path)


class _Events:
    """TensorBoard events, written at once.

    `SummaryWriter` writes them in a thread, which a full disk ends; from then on it would
    wait for that thread for ever. In a bucket, which would take the whole file anew for every
    line, there are none: `metrics.jsonl` has all the numbers.
    """

    def __init__(self, folder: epath.Path):
        self._folder = folder
        self._writer: EventsWriter | None = None
        self._files = 0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of one step; one that cannot be written is left out."""
        if not _is_local(self._folder):
            return
        summary = Summary()
        for name, value in values.items():
            summary.MergeFrom(scalar(name, value))
        try:
            if self._writer is None:
                self._open()
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._writer.flush()
        except OSError as error:
            logging.warning("No TensorBoard events of step %d in %s: %s", step, self._folder, error)
            self._writer = None  # what it was writing is cut off; the next step gets a new file

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files += 1
        prefix = os.path.join(self._folder, "events")
        self._writer = EventsWriter(prefix, f".{os.getpid()}.{self._files}")

    def close(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()


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
