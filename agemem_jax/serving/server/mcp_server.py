"""Memories as a server of the Model Context Protocol: stateless, at /mcp?user=NAME.

The tools are operations of the agent's own store, so that what another program notes, the agent
finds, and the other way round.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import ToolAnnotations
from pydantic import Field

from agemem_jax.serving.memory.held_memory import check_name
from agemem_jax.serving.memory.sqlite_store import SQLiteStore
from agemem_jax.serving.memory.user_memory import MemoryEntry, UserMemory

_READS = ToolAnnotations(readOnlyHint=True, openWorldHint=False)
_ADDS = ToolAnnotations(destructiveHint=False, openWorldHint=False)
_CHANGES = ToolAnnotations(destructiveHint=True, openWorldHint=False)
_LISTED = 1000

Text = Annotated[str, Field(min_length=1, max_length=100_000, description="One memory.")]
MemoryId = Annotated[str, Field(description="As a search or a list names it.")]


def make_mcp(store: SQLiteStore, body_bytes: int) -> FastMCP:
    """The server of a store. `body_bytes` is the limit of a request's body.

    Who may connect is for the application around it to say.
    """
    mcp = FastMCP(
        "agemem",
        instructions="Long-term memory of one user: search it before you answer, add what lasts.",
        stateless_http=True,
        json_response=True,
        streamable_http_path="/mcp",
        max_request_body_size=body_bytes,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )

    async def do(context: Context, act: Callable[[UserMemory], Any]) -> Any:
        """What `act` gives for the user that the address names."""
        user = context.request_context.request.query_params.get("user")
        try:
            check_name(user)
        except ValueError:
            raise ToolError("The address must end with ?user=NAME, whose memory it is.") from None
        try:
            return await asyncio.to_thread(act, UserMemory(store, user))
        except KeyError as error:
            raise ToolError(f"There is no memory {error}.") from None
        except ValueError as error:
            raise ToolError(str(error)) from None

    @mcp.tool(annotations=_READS)
    async def search_memories(
        query: Annotated[str, Field(min_length=1, max_length=10_000)],
        context: Context,
        top_k: Annotated[int, Field(ge=1, le=100)] = 5,
    ) -> list[dict[str, Any]]:
        """The memories most similar to a query, best first."""
        return await do(context, lambda memory: _listed(memory.search(query, top_k)))

    @mcp.tool(annotations=_READS)
    async def list_memories(context: Context) -> list[dict[str, Any]]:
        """All memories, oldest first, a thousand at most."""
        return await do(context, lambda memory: _listed(memory.entries()[:_LISTED]))

    @mcp.tool(annotations=_ADDS)
    async def add_memory(content: Text, context: Context) -> str:
        """Stores one fact; gives its id."""
        return await do(context, lambda memory: memory.add(content, {"source": "mcp"}))

    @mcp.tool(annotations=_CHANGES)
    async def update_memory(memory_id: MemoryId, content: Text, context: Context) -> str:
        """Replaces the text of a memory."""
        await do(context, lambda memory: memory.edit(memory_id, content))
        return f"Updated {memory_id}."

    @mcp.tool(annotations=_CHANGES)
    async def delete_memory(memory_id: MemoryId, context: Context) -> str:
        """Removes a memory."""
        await do(context, lambda memory: memory.forget(memory_id))
        return f"Deleted {memory_id}."

    return mcp


def _listed(entries: list[MemoryEntry]) -> list[dict[str, Any]]:
    told = []
    for entry in entries:
        values = dataclasses.asdict(entry)
        told.append({key: value for key, value in values.items() if value is not None})
    return told
