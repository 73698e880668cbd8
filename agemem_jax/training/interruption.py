"""Requests to stop: signals, and notices that the machine goes away.

A run that is asked to stop drops the rollout that it is in, saves, and ends with
`EXIT_STATUS`; the launchers start it again. What was dropped is played again, token for
token, since it follows from the seed and the step.
"""

import os
import signal
import threading
import urllib.request

from absl import logging

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later
_METADATA = "http://{host}/computeMetadata/v1/instance/maintenance-event?wait_for_change=true"


class Interrupted(Exception):
    """The run was asked to stop, and has saved what it can be continued from."""


class Interruption:
    """Whether the run was asked to stop. Asking is safe at any moment, from any thread."""

    def __init__(self):
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self, why: str) -> None:
        """Asks the run to stop."""
        if not self.asked:
            logging.warning("%s: dropping the rollout under way, saving, ending.", why)
        self._asked.set()

    def check(self) -> None:
        """Gives up what is under way when the run was asked to stop.

        Raises:
          Interrupted: it was.
        """
        if self.asked:
            raise Interrupted("The run was asked to stop.")

    def listen(self) -> None:
        """Takes SIGTERM and SIGINT as requests; the second SIGINT ends the process at once.

        Must follow `jax.distributed.initialize`, which listens to SIGTERM itself.
        """

        def on_signal(number, frame):
            self.ask(signal.Signals(number).name)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)

    def watch_maintenance(self) -> None:
        """On Google Cloud, takes notices of host maintenance as requests."""
        threading.Thread(target=self._watch, name="maintenance", daemon=True).start()

    def _watch(self) -> None:
        host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
        request = urllib.request.Request(
            _METADATA.format(host=host), headers={"Metadata-Flavor": "Google"}
        )
        while not self.asked:
            try:
                with urllib.request.urlopen(request) as reply:
                    event = reply.read().decode().strip()
            except OSError as error:
                logging.info("No maintenance notices: %s", error)
                return
            if event != "NONE":
                self.ask(f"Maintenance notice {event}")
