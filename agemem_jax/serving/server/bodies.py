"""Reads a request's body within its limits, checks it, and watches whether the client stays."""

import asyncio
from collections.abc import Awaitable

import pydantic
from starlette.requests import ClientDisconnect, Request

from agemem_jax.serving.server import fields
from agemem_jax.serving.server.errors import APIError
from agemem_jax.serving.server.service import Limits


class ClientGone(Exception):
    """Nobody waits for the answer."""


async def read[TableT: fields.Table](
    request: Request, table: type[TableT], limits: Limits
) -> TableT:
    """The body as what `table` says.

    Raises:
      APIError: it is no JSON, too large, too slow, or does not fit the table.
      ClientGone: it ended in the middle.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page in a browser can send other types to this server without asking it first.
        raise APIError(415, "Send application/json.")
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.body_bytes:
                    raise APIError(
                        413, f"The body is larger than {limits.body_bytes} bytes.",
                        headers={"Connection": "close"},
                    )  # fmt: skip
                parts.append(part)
    except TimeoutError:
        raise APIError(408, "The body took too long.", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ClientGone from None
    try:
        return table.model_validate_json(b"".join(parts), strict=True)
    except pydantic.ValidationError as error:
        message, param = fields.explain(error)
        raise APIError(400, message, param=param) from None


async def while_there[T](request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away.

    Raises:
      ClientGone: it did.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
