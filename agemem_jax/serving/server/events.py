"""Server-sent events that free what they are about, however they end."""

from collections.abc import AsyncIterator, Callable

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

_PING_SECONDS = 15
_SEND_SECONDS = 60  # a client that reads nothing for so long is gone


class Events(EventSourceResponse):
    """A streamed answer; `close` is called at its end, even where it never began."""

    def __init__(self, events: AsyncIterator[dict[str, str]], close: Callable[[], None]):
        super().__init__(events, ping=_PING_SECONDS, send_timeout=_SEND_SECONDS, sep="\n")
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()
