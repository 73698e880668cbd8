"""Calls that take their time on the host, such as a step of an environment.

Each runs in a thread of its own while the engine goes on. One that crashes or does not come
back in time becomes a `ToolFault` in the episode that asked, and in no other.
"""

import queue
import threading
import time
from typing import Any

from agemem_jax.rollout.requests import HostCall


class ToolFault(Exception):
    """What an episode asked of the host crashed, or hung, as the message says."""


class HostCalls:
    """The calls under way, at most one for each slot."""

    def __init__(self):
        self._results: queue.SimpleQueue[tuple[int, object, Any]] = queue.SimpleQueue()
        self._under_way: dict[int, tuple[object, HostCall, float]] = {}

    def __contains__(self, slot: int) -> bool:
        return slot in self._under_way

    def start(self, slot: int, call: HostCall) -> None:
        """Runs a call for the episode in `slot`."""
        ticket = object()  # tells a late result from that of the slot's next call
        self._under_way[slot] = ticket, call, time.monotonic() + call.timeout

        def run():
            try:
                result = call.function()
            except ToolFault as fault:
                result = fault
            except Exception as error:
                text = " ".join(str(error).split())[:200]
                result = ToolFault(f"{call.name} crashed with {type(error).__name__}: {text}")
            self._results.put((slot, ticket, result))

        # A daemon: one that hangs must not keep the program from ending.
        threading.Thread(target=run, name=call.name, daemon=True).start()

    def finished(self, patience: float) -> list[tuple[int, Any]]:
        """Results by slot, a `ToolFault` for what failed.

        Args:
          patience: seconds to wait for the first one, when none is there yet.
        """
        finished = []
        if self._under_way:
            soonest = min(deadline for _, _, deadline in self._under_way.values())
            wait = min(patience, max(0.0, soonest - time.monotonic()))
            try:
                self._take(self._results.get(timeout=wait) if wait else None, finished)
                while True:
                    self._take(self._results.get_nowait(), finished)
            except queue.Empty:
                pass
        now = time.monotonic()
        for slot, (_, call, deadline) in list(self._under_way.items()):
            if now >= deadline:
                del self._under_way[slot]
                fault = ToolFault(f"{call.name} hung: no answer within {call.timeout:g} s")
                finished.append((slot, fault))
        return finished

    def _take(self, item: tuple[int, object, Any] | None, finished: list) -> None:
        if item is None:
            return
        slot, ticket, result = item
        if self._under_way.get(slot, (None,))[0] is ticket:
            del self._under_way[slot]
            finished.append((slot, result))
