"""One environment in a process of its own: `python -m agemem_jax.environments.worker FD`.

Reads JSON messages from a connection and answers each, until that is closed:

    {"environment": name, "options": {...}, "do": "reset", "arguments": [seed]}
    {"do": "step", "arguments": ["go to desk 1"]}

with `{"value": ...}`, or `{"error": sentence}`. What simulators print goes nowhere.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from agemem_jax.environments.protocol import Observation, Outcome
from agemem_jax.environments.registry import ENVIRONMENTS

_KINDS = {"Observation": Observation, "Outcome": Outcome}


def to_json(value: Any) -> Any:
    """What a method returned, as JSON; the inverse is `from_json`."""
    if isinstance(value, Observation | Outcome):
        return {"kind": type(value).__name__, **dataclasses.asdict(value)}
    return value


def from_json(value: Any) -> Any:
    if isinstance(value, dict) and value.get("kind") in _KINDS:
        fields = {name: each for name, each in value.items() if name != "kind"}
        return _KINDS[value["kind"]](**fields)
    return value


class Host:
    """Holds an environment, and does with it what messages say."""

    def __init__(self):
        self._environment: Any = None

    def answer(self, message: dict[str, Any]) -> Any:
        """Does it; exceptions are the environment's."""
        do, arguments = message["do"], message.get("arguments", [])
        if do == "reset":
            self.close()
            self._environment = ENVIRONMENTS.build(message["environment"], message["options"])
            return checked(do, self._environment.reset(*arguments))
        method = getattr(self._environment, do, None)
        if method is None:
            return None
        try:
            return checked(do, method(*arguments))
        except LookupError:
            if do != "demonstration":
                raise
            return []  # nobody knows how to reach the goal

    def close(self) -> None:
        """Gives back what the environment holds."""
        environment, self._environment = self._environment, None
        if hasattr(environment, "close"):
            with contextlib.suppress(Exception):
                environment.close()


def checked(do: str, value: Any) -> Any:
    """What a method returned, in the form that episodes read.

    Raises:
      TypeError: it is something else.
    """
    if do == "reset":
        value = Observation(value) if isinstance(value, str) else value
        if not isinstance(value, Observation):
            raise TypeError(f"reset returned a {type(value).__name__}, not an Observation")
    elif do in ("step", "call"):
        if not isinstance(value, Outcome):
            raise TypeError(f"{do} returned a {type(value).__name__}, not an Outcome")
        if not 0.0 <= value.progress <= 1.0:
            raise ValueError(f"the progress is {value.progress}, which is not in [0, 1]")
    elif value is not None:
        value = [str(each) for each in value]
    return value


def main(connection: Connection) -> None:
    host = Host()
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:  # whoever asked is gone
            return
        try:
            reply = {"value": to_json(host.answer(message))}
        except Exception as error:  # whatever the environment does
            text = " ".join(str(error).split())[:300]
            reply = {"error": f"{type(error).__name__}: {text}"}
        try:
            connection.send_bytes(json.dumps(reply).encode())
        except BrokenPipeError:
            return


if __name__ == "__main__":
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that asked
    main(Connection(int(sys.argv[1])))
    os.killpg(0, signal.SIGKILL)  # a simulator may have processes of its own
