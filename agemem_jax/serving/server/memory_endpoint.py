"""/v1/memory_tool: Anthropic's memory tool for loops that run elsewhere than the store.

A loop sends the `input` of a `tool_use` block, and gets what its `tool_result` is to hold.
"""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agemem_jax.serving.memory.held_memory import check_name
from agemem_jax.serving.memory.user_memory import UserMemory
from agemem_jax.serving.server import bodies
from agemem_jax.serving.server.errors import APIError
from agemem_jax.serving.server.fields import Table, required
from agemem_jax.serving.server.memory_tool import MemoryTool, MemoryToolError
from agemem_jax.serving.server.service import Service


class MemoryToolRequest(Table):
    """A command on one user's memories."""

    user: str = required("whose memories")
    input: dict[str, Any] = required("of the `tool_use` block")


async def run(service: Service, request: Request) -> Response:
    """Answers a request."""
    body = await bodies.read(request, MemoryToolRequest, service.limits)
    try:
        check_name(body.user)
    except ValueError as error:
        raise APIError(400, f"user: {error}", param="user") from None
    tool = MemoryTool(UserMemory(service.agent.store, body.user))
    try:
        content, failed = await asyncio.to_thread(tool.run, body.input), False
    except MemoryToolError as error:
        content, failed = str(error), True
    return JSONResponse({"content": content, "is_error": failed})
