"""Requests to stop: signals, and notices that the machine goes away.

A run that is asked to stop drops the rollout that it is in, saves, and ends with
`EXIT_STATUS`; the launchers start it again. What was dropped is played again, token for
token, since it follows from the seed and the step. While a program is set up there is nothing
to save, and it ends at once.

Python hears a signal between two of its own instructions only, and a program that XLA compiles
can take minutes. So a thread listens, too: where the program does not get to a point at which
it asks within `patience`, the thread rescues what can be saved, and ends the process.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

from absl import logging

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later
_METADATA = "http://{host}/computeMetadata/v1/instance/maintenance-event?wait_for_change=true"
_SECOND = 2.0  # seconds until a second Ctrl-C ends a process that does not hear it


class Interrupted(BaseException):
    """The run was asked to stop, and has saved what it can be continued from.

    No `Exception`: what goes on after errors of all kinds must not go on after this.

    Attributes:
      status: what the process should end with.
    """

    def __init__(self, message: str, status: int = EXIT_STATUS):
        super().__init__(message)
        self.status = status


class Interruption:
    """Whether the run was asked to stop. Asking is safe at any moment, from any thread."""

    def __init__(self):
        self._asked = threading.Event()
        self._heard = threading.Event()
        self._rescue: Callable[[], bool] | None = None
        self._patience = 10.0

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self, why: str) -> None:
        """Asks the run to stop."""
        if not self.asked:
            logging.warning("%s: dropping what is under way, saving, ending.", why)
        self._asked.set()

    def check(self) -> None:
        """Gives up what is under way when the run was asked to stop.

        Raises:
          Interrupted: it was.
        """
        if self.asked:
            self._heard.set()
            raise Interrupted("Stopped; the same command goes on from here.")

    def begin(self, rescue: Callable[[], bool], patience: float = 10.0) -> None:
        """The set-up is over: from now on a request is answered where `check` is called.

        Args:
          rescue: saves from a thread of its own what can be saved; called again where it
            returns False, which means: not at this moment.
          patience: seconds after which it is called, when nobody has checked.
        """
        self._rescue, self._patience = rescue, patience
        self.check()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGTERM and SIGINT as requests; a second SIGINT ends the process at once.

        Must follow `jax.distributed.initialize`, which listens to SIGTERM itself.
        """
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.getsignal(number) for number in numbers}
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        for number in numbers:
            signal.signal(number, self._on_signal)
        earlier = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(reader,), name="signals", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(earlier)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._heard.set()
            writer.close()

    def _on_signal(self, number, frame) -> None:
        """In the main thread, as soon as Python gets to it."""
        self.ask(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._rescue is None:
            self._heard.set()
            raise _stopped_early(number)

    def _listen(self, reader: socket.socket) -> None:
        """In a thread of its own, at once."""
        signals = 0
        while data := reader.recv(1):
            number = data[0]
            if number not in (signal.SIGTERM, signal.SIGINT):
                continue
            signals += 1
            self.ask(signal.Signals(number).name)
            if signals == 1:
                threading.Thread(target=self._insist, args=(number,), daemon=True).start()
            elif number == signal.SIGINT:
                threading.Thread(target=self._end_at_once, daemon=True).start()
        reader.close()

    def _insist(self, number: int) -> None:
        """Ends the process where the main thread does not hear of the request."""
        if self._heard.wait(self._patience):
            return
        while self._rescue is not None and not self._rescue():
            if self._heard.wait(0.2):
                return
        stopped = _stopped_early(number)
        if self._rescue is not None:
            stopped = Interrupted("Stopped; the same command goes on from here.")
        _end(str(stopped), stopped.status)

    def _end_at_once(self) -> None:
        time.sleep(_SECOND)  # the main thread comes first, if it hears
        if not self._heard.is_set():
            _end("Stopped at once; what was not saved is lost.", 1)

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


def _stopped_early(number: int) -> Interrupted:
    """Before there was anything to save."""
    if number == signal.SIGINT:
        return Interrupted("Error: Interrupted while setting up; nothing has changed.", 1)
    return Interrupted("Stopped while setting up; the same command starts again.")


def _end(message: str, status: int) -> None:
    """Without Python's own end, which would wait for the thread that does not hear."""
    print(message, file=sys.stderr, flush=True)
    logging.flush()
    os._exit(status)
