"""Results of the scheduler's thread, awaited in the server's event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from agemem_jax.serving.server.scheduler import Failure, Sampling, Scheduler, Ticket, Update


class Stream:
    """The updates of one request. Closing it frees its slot."""

    def __init__(self, scheduler: Scheduler):
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Update | Failure] = asyncio.Queue()
        self.ticket: Ticket | None = None
        self._ended = False

    def listen(self, update: Update | Failure) -> None:
        """Takes what the scheduler's thread tells."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._queue.put_nowait, update)

    async def updates(self) -> AsyncIterator[Update]:
        """All updates up to the last.

        Raises:
          Failure: the request ended without a result.
        """
        while not self._ended:
            update = await self._queue.get()
            if isinstance(update, Failure):
                self._ended = True
                raise update
            self._ended = update.done
            yield update

    def close(self) -> None:
        """Nobody reads any more."""
        if not self._ended and self.ticket is not None:
            self._ended = True
            self._scheduler.cancel(self.ticket)


def open_streams(
    scheduler: Scheduler, requests: Sequence[tuple[tuple[int, ...], Sampling]]
) -> list[Stream]:
    """Submits all of the requests, or none.

    Raises:
      QueueFull: see `Scheduler.submit`.
    """
    streams = [Stream(scheduler) for _ in requests]
    tickets = scheduler.submit_all(
        [(*request, stream.listen) for request, stream in zip(requests, streams, strict=True)]
    )
    for stream, ticket in zip(streams, tickets, strict=True):
        stream.ticket = ticket
    return streams
