"""Continuous batching: one thread owns the engine, and slots take new requests as they fall free.

Requests come from any thread and wait in a queue of bounded length. After every chunk of
decoding their listeners are told what is new. A request that is cancelled, or that ran out of
time, frees its slot before the next chunk.
"""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable

import jax
import numpy as np
from absl import logging
from jaxtyping import UInt32

from agemem_jax.models.decoder import Weights
from agemem_jax.rollout.constraints import Constraint
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import GenerationRequest


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a response is drawn; fields as in `GenerationRequest`.

    Attributes:
      constraint: of this response alone; None allows any token.
    """

    max_tokens: int
    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None


@dataclasses.dataclass(frozen=True)
class Update:
    """What a request gave since the last one.

    Attributes:
      token_ids: new tokens.
      log_probs: theirs, in the distribution that they were drawn from.
      done: whether these were the last.
      cached: with the last, how many of the prompt's tokens the caches held already.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    done: bool = False
    cached: int = 0


class Failure(Exception):
    """Why a request ends without a result; given to its listener."""


class OutOfTime(Failure):
    """It waited and ran longer than a request may."""


class QueueFull(Exception):
    """As many requests wait as may."""


class Ticket:
    """A request on its way through the scheduler."""

    def __init__(
        self,
        prompt: tuple[int, ...],
        sampling: Sampling,
        listener: Callable[[Update | Failure], None],
        deadline: float,
    ):
        self.prompt, self.sampling, self.listener = prompt, sampling, listener
        self.deadline = deadline
        self.context = np.asarray(prompt[:-1], np.int32)
        self.reported = 0  # tokens that the listener knows


@dataclasses.dataclass(frozen=True)
class Load:
    """How busy a scheduler is."""

    waiting: int
    running: int
    slots: int


class Scheduler:
    """Runs requests of many clients on one engine."""

    def __init__(
        self, engine: Engine, weights: Weights, *, max_waiting: int = 128, max_seconds: float = 600
    ):
        """Loads the engine; nothing runs before `start`.

        Args:
          engine: which nothing else may use from now on.
          weights: to sample from.
          max_waiting: requests that wait for a slot, at most.
          max_seconds: how long a request may wait and run together.
        """
        self.engine, self._weights = engine, weights
        self.max_waiting, self.max_seconds = max_waiting, max_seconds
        self._condition = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, Ticket] = {}
        self._dropped: set[Ticket] = set()
        self._last_used = dict.fromkeys(range(engine.config.slots), 0)
        self._admitted = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        engine.load(weights)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="scheduler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends what waits and runs with a `Failure`, and the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def load(self) -> Load:
        with self._condition:
            return Load(len(self._waiting), len(self._running), self.engine.config.slots)

    def submit(
        self,
        prompt: tuple[int, ...],
        sampling: Sampling,
        listener: Callable[[Update | Failure], None],
    ) -> Ticket:
        """Queues a request.

        Args:
          prompt: its tokens, at least one.
          sampling: how to draw; prompt and `max_tokens` must fit the engine's length.
          listener: called from the scheduler's thread with each `Update`, or with a `Failure`,
            which is the last. It must return at once.

        Raises:
          QueueFull: as many wait as may.
        """
        (ticket,) = self.submit_all([(prompt, sampling, listener)])
        return ticket

    def submit_all(self, requests) -> list[Ticket]:
        """Queues several (prompt, sampling, listener), or none of them; see `submit`."""
        deadline = time.monotonic() + self.max_seconds
        tickets = [Ticket(*request, deadline) for request in requests]
        with self._condition:
            if self._closing:
                raise QueueFull("The server is closing.")
            free = self.engine.config.slots - len(self._running)
            if len(self._waiting) + len(tickets) > self.max_waiting + free:
                raise QueueFull(f"{len(self._waiting)} requests wait already.")
            self._waiting += tickets
            self._condition.notify()
        return tickets

    def cancel(self, ticket: Ticket) -> None:
        """Nobody wants the result any more; its listener is not called again."""
        with self._condition:
            self._dropped.add(ticket)
            self._condition.notify()

    def _serve(self) -> None:
        try:
            self._serve_all()
        finally:  # whatever ended it, nobody is to wait for ever
            with self._condition:
                self._closing = True
                tickets = [*self._waiting, *self._running.values()]
                self._waiting.clear()
                self._running.clear()
            for ticket in tickets:
                ticket.listener(Failure("The server is closing."))

    def _serve_all(self) -> None:
        while self._gather():
            try:
                finished = self.engine.step() if self.engine.pending else []
                self._report(finished)
            except Exception as error:  # the next requests are to be served all the same
                logging.exception("The engine failed; what ran is dropped.")
                self._fail_running(Failure(f"The engine failed: {type(error).__name__}."))
                self.engine.release()
                self.engine.load(self._weights)

    def _gather(self) -> bool:
        """Waits for something to do, and hands it to the engine; False at the end."""
        with self._condition:
            while not (self._waiting or self._running or self._closing):
                self._dropped.clear()
                self._condition.wait()
            dropped, self._dropped = self._dropped, set()
            if self._closing:
                return False
            ended = self._end_late_ones(dropped)
            self._admit()
        for ticket in ended:
            if ticket not in dropped:
                ticket.listener(
                    OutOfTime(f"The request took longer than {self.max_seconds:g} seconds.")
                )
        return True

    def _end_late_ones(self, dropped: set[Ticket]) -> list[Ticket]:
        """Takes out whom nobody waits for any more, and who has no time left."""
        now = time.monotonic()

        def ends(ticket: Ticket) -> bool:
            return ticket in dropped or now >= ticket.deadline

        ended = [ticket for ticket in self._waiting if ends(ticket)]
        self._waiting = deque(ticket for ticket in self._waiting if not ends(ticket))
        for slot, ticket in list(self._running.items()):
            if ends(ticket):
                self.engine.cancel(slot)
                ended.append(self._running.pop(slot))
        return ended

    def _admit(self) -> None:
        """Gives free slots to those that waited longest."""
        free = set(range(self.engine.config.slots)) - set(self._running)
        while self._waiting and free:
            ticket = self._waiting.popleft()
            # Where most of the prompt is; of those, what others have used least of late.
            slot = max(free, key=lambda s: (self._holds(s, ticket), -self._last_used[s]))
            free.remove(slot)
            self._admitted += 1
            self._last_used[slot] = self._admitted
            sampling = ticket.sampling
            try:
                self.engine.submit(
                    GenerationRequest(
                        slot, ticket.prompt, sampling.max_tokens, _key(sampling.seed),
                        sampling.temperature, sampling.top_k, sampling.top_p, sampling.stop,
                        constraint=sampling.constraint,
                    )
                )  # fmt: skip
            except ValueError as error:  # who submits looks first; nothing may end the thread
                ticket.listener(Failure(str(error)))
            else:
                self._running[slot] = ticket

    def _holds(self, slot: int, ticket: Ticket) -> int:
        return self.engine.holds(slot, ticket.context)

    def _report(self, finished) -> None:
        for done in finished:
            with self._condition:
                ticket = self._running.pop(done.slot)
            cached = len(ticket.context) - done.prefilled
            self._tell(ticket, done.token_ids, done.log_probs.tolist(), done=True, cached=cached)
        for slot, ticket in self._running.items():
            self._tell(ticket, *self.engine.progress(slot))

    def _tell(self, ticket: Ticket, tokens, log_probs, **end) -> None:
        start, ticket.reported = ticket.reported, len(tokens)
        if end or ticket.reported > start:
            ticket.listener(Update(tuple(tokens[start:]), tuple(log_probs[start:]), **end))

    def _fail_running(self, failure: Failure) -> None:
        with self._condition:
            tickets = list(self._running.values())
            self._running.clear()
        for ticket in tickets:
            ticket.listener(failure)


def _key(seed: int) -> UInt32[np.ndarray, " word"]:
    return np.asarray(jax.random.key_data(jax.random.key(np.uint32(seed % 2**32))))
