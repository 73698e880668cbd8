"""A trace of some iterations, as `jax.profiler` writes it into the folder `profile`."""

import os
import re

import jax
from absl import logging

from agemem_jax.parallel import processes


def parse_steps(text: str) -> tuple[int, int]:
    """The first and the last step of "5:8", both included, or of "5" alone.

    Raises:
      ValueError: it is written in another way, or is empty.
    """
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last:
        raise ValueError(
            f"--profile_steps is {text!r}; it must be one step, or the first and the last one, "
            "counted from 1, such as 5:8."
        )
    return first, last


class Profiler:
    """Traces the steps from `first` to `last` of a run in its first process.

    Those that a run which is taken up again has done already are left out.
    """

    def __init__(self, steps: tuple[int, int] | None, workdir: str | os.PathLike, total: int):
        """Args:
        steps: the first and the last one; None traces nothing.
        workdir: of the run.
        total: iterations of the run, all phases together.

        Raises:
          ValueError: the run has not so many.
        """
        if steps is not None and steps[1] > total:
            raise ValueError(
                f"--profile_steps ends at step {steps[1]}, and the run has {total} steps in all; "
                f"name steps from 1 to {total}."
            )
        self._first, self._last = steps or (0, 0)
        self._folder = os.path.join(workdir, "profile")
        self._running = False

    def at(self, step: int) -> None:
        """Is told that the run stands behind `step`."""
        if not processes.is_primary():
            return
        if self._running and step >= self._last:
            self.close()
        elif not self._running and self._first <= step + 1 <= self._last:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every call of an iteration: hundreds of megabytes
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._running = True

    def close(self) -> None:
        """Writes what was traced."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            logging.info("Wrote a trace of the run into %s", self._folder)
