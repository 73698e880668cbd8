"""TensorBoard events in the folder `tensorboard` of the work directory."""

import contextlib
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

from agemem_jax.training.monitoring.sinks.registry import Run, is_local, numbers


class TensorBoard:
    """Numbers as scalars under their names, written at once.

    `SummaryWriter` writes them in a thread, which a full disk ends; from then on it would
    wait for that thread for ever. In a bucket, which would take the whole file anew for every
    line, there are none: `metrics.jsonl` has all the numbers.
    """

    def __init__(self):
        self._folder: epath.Path | None = None
        self._writer: EventsWriter | None = None
        self._files = 0

    def open(self, run: Run) -> None:
        self._folder = epath.Path(run.workdir) / "tensorboard"

    def write(self, step: int, values: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Adds the values of one step; one that cannot be written is left out."""
        if not is_local(self._folder):
            return
        summary = Summary()
        for name, value in numbers(values, timing).items():
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
