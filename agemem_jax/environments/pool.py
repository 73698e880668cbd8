"""Environments of many episodes, each in a worker process while the episode lasts.

A worker that dies or does not answer in time is killed, and another takes its place; what it
was asked fails with an `EnvironmentFault`, which is the episode's end and nobody else's.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from agemem_jax.environments.worker import Host, from_json

if TYPE_CHECKING:
    from agemem_jax.tasks.task import EnvironmentGoal


class EnvironmentFault(Exception):
    """An environment crashed, hung, or is no environment; the message says which and how."""


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
    """How environments are run.

    Attributes:
      workers: processes at most; an episode waits until one is free. None is one for each
        processor. A ScienceWorld takes 1.3 GB, the others about 0.1.
      episodes_per_worker: a worker ends after so many, and another takes its place: simulators
        do not give back all that they take.
      reset_timeout, step_timeout: seconds until one that does not answer counts as hung.
    """

    workers: int | None = None
    episodes_per_worker: int = 50
    reset_timeout: float = 120.0
    step_timeout: float = 60.0

    def __post_init__(self):
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"environments.workers is {self.workers}; it must be at least 1.")
        if self.episodes_per_worker < 1:
            raise ValueError(
                f"environments.episodes_per_worker is {self.episodes_per_worker}; it must be at "
                "least 1."
            )
        for name in ("reset_timeout", "step_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"environments.{name} is {getattr(self, name)}; it must be above 0 seconds."
                )


class EnvironmentPool:
    """Gives each episode its environment. Threads may call it at the same time.

    An environment that a goal names runs in a worker process; one that a goal holds as a class
    runs in this process, where nothing protects from it.
    """

    def __init__(self, config: EnvironmentConfig | None = None):
        self.config = config = config or EnvironmentConfig()
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(config.workers or os.cpu_count() or 1):
            self._free.put(_Worker())
        self._in_use: dict[int, _Worker | _Here] = {}
        self._wanted: dict[int, object] = {}  # what tells an owner's turns apart
        self._lock = threading.Lock()

    def ask(
        self, owner: int, do: str, goal: "EnvironmentGoal | None" = None, arguments: tuple = ()
    ) -> Any:
        """Has the environment of `owner` do something, and returns what that returns.

        Args:
          owner: of the episode; "reset" gives it an environment, and waits until one is free.
          do: the method, "reset" first.
          goal: with "reset", what to build.
          arguments: of the method, JSON values.

        Raises:
          EnvironmentFault: it went wrong; the owner has no environment any more.
        """
        message: dict[str, Any] = {"do": do, "arguments": list(arguments)}
        timeout = self.config.step_timeout
        if do == "reset":
            message |= {"environment": goal.environment, "options": dict(goal.options)}
            timeout = self.config.reset_timeout
            self._acquire(owner, goal)
        runner = self._in_use[owner]
        if do == "reset":
            runner.episodes += 1
            runner.name = getattr(goal.environment, "__name__", goal.environment)
        try:
            return runner.ask(message, timeout)
        except EnvironmentFault as fault:
            self.release(owner, broken=True)
            raise EnvironmentFault(f"The environment {runner.name}: {fault}") from fault

    def _acquire(self, owner: int, goal: "EnvironmentGoal") -> None:
        ticket = object()
        self.release(owner)
        self._wanted[owner] = ticket
        runner = self._free.get() if isinstance(goal.environment, str) else _Here()
        with self._lock:
            if self._wanted.get(owner) is ticket:
                self._in_use[owner] = runner
                return
        if isinstance(runner, _Worker):  # the episode has ended meanwhile
            self._free.put(runner)
        raise EnvironmentFault("the episode has ended")

    def release(self, owner: int, broken: bool = False) -> None:
        """Takes the environment of `owner` back, where it has one."""
        with self._lock:
            self._wanted.pop(owner, None)
            runner = self._in_use.pop(owner, None)
        if runner is not None and (broken or runner.episodes >= self.config.episodes_per_worker):
            runner.kill()
        if isinstance(runner, _Worker):
            self._free.put(runner)

    def close(self) -> None:
        """Ends the processes; another reset starts new ones."""
        for owner in list(self._in_use):
            self.release(owner, broken=True)
        for _ in range(self._free.qsize()):
            worker = self._free.get()
            worker.kill()
            self._free.put(worker)


class _Here:
    """An environment in this process."""

    def __init__(self):
        self.name, self.episodes = "", 0
        self._host = Host()

    def ask(self, message: dict[str, Any], timeout: float) -> Any:
        del timeout  # nothing could end it
        try:
            return self._host.answer(message)
        except Exception as error:  # whatever a user's class does
            text = " ".join(str(error).split())[:300]
            raise EnvironmentFault(f"it failed with {type(error).__name__}: {text}") from error

    def kill(self) -> None:
        self._host.close()


class _Worker:
    """A process for one environment at a time; started with the first thing that it is asked."""

    def __init__(self):
        self.name = ""  # of the environment
        self.episodes = 0  # that it has played
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None

    def ask(self, message: dict[str, Any], timeout: float) -> Any:
        if self._process is None:
            self._start()
        try:
            self._connection.send_bytes(json.dumps(message).encode())
            if not self._connection.poll(timeout):
                raise EnvironmentFault(f"it hung: no answer within {timeout:g} s")
            reply = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise EnvironmentFault("its process died") from error
        if "error" in reply:
            raise EnvironmentFault(f"it failed with {reply['error']}")
        return from_json(reply["value"])

    def _start(self) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "agemem_jax.environments.worker", str(theirs.fileno())]
        # What can be imported here can be imported there.
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self._connection = ours

    def kill(self) -> None:
        """Ends the process with all that it has started."""
        process, self._process = self._process, None
        self.episodes = 0
        if process is None:
            return
        self._connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
