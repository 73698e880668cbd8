"""The report of a run that trains: written anew as it goes on, without getting in its way.

Training calls it in its first process, where samples or an evaluation have just been written.
What a report costs it may cost a fiftieth of the time; an error costs that report only.
"""

import os
import time

from agemem_jax.report.write import try_to_write_report

_SHARE = 50  # of the time between two reports to that of writing one


class GrowingReport:
    """Writes the report of one work directory, now and then."""

    def __init__(self, workdir: str | os.PathLike, clock=time.monotonic):
        self._workdir, self._clock = workdir, clock
        self._not_before = clock()

    def grow(self, last: bool = False) -> None:
        """Writes it, unless one was written a short while ago; the `last` one always.

        Whatever goes wrong is logged and nothing else.
        """
        started = self._clock()
        if started < self._not_before and not last:
            return
        try_to_write_report(self._workdir)
        ended = self._clock()
        self._not_before = ended + _SHARE * (ended - started)
