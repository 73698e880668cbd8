"""The four tools of the long-term memory M_t (paper section 3.2, appendix A.1)."""

from collections.abc import Mapping
from typing import Any

from agemem_jax.memory import operations
from agemem_jax.protocol import prompts
from agemem_jax.protocol.tools import Parameter, ToolError, ToolResult, ToolSpec, shown
from agemem_jax.rollout.requests import MemoryRequest
from agemem_jax.rollout.tool_use import Play, ToolUse

MAX_TOP_K = 10


def _add(episode: ToolUse, arguments: Mapping[str, Any]) -> Play:
    metadata = dict(arguments.get("metadata") or {})
    if arguments.get("memory_type"):
        metadata["memory_type"] = arguments["memory_type"]
    content = arguments["content"]
    result = yield MemoryRequest(operations.Add(content=content, metadata=metadata))
    if not result.ok:
        return ToolResult(result.error, ok=False)
    episode.memory[result.memory_id] = content
    return _stored("Added", "added", result, content)


def _update(episode: ToolUse, arguments: Mapping[str, Any]) -> Play:
    content = arguments["content"]
    result = yield MemoryRequest(
        operations.Update(
            memory_id=arguments["memory_id"], content=content, metadata=arguments.get("metadata")
        )
    )
    if not result.ok:
        return ToolResult(result.error, ok=False)
    episode.memory[result.memory_id] = content
    return _stored("Updated", "updated", result, content)


def _delete(episode: ToolUse, arguments: Mapping[str, Any]) -> Play:
    result = yield MemoryRequest(operations.Delete(memory_id=arguments["memory_id"]))
    if not result.ok:
        return ToolResult(result.error, ok=False)
    episode.memory.pop(result.memory_id, None)
    return _stored("Deleted", "deleted", result, None)


def _stored(done: str, effect, result, content: str | None) -> ToolResult:
    return ToolResult(
        f"{done} {result.memory_id}.",
        effect=effect if result.changed else None,
        memory_id=result.memory_id,
        content=content,
    )


def _retrieve(episode: ToolUse, arguments: Mapping[str, Any]) -> Play:
    result = yield MemoryRequest(
        operations.Retrieve(
            query=arguments["query"],
            top_k=arguments.get("top_k") or episode.config.top_k,
            metadata_filter=arguments.get("metadata_filter"),
        )
    )
    if not result.ok:
        return ToolResult(result.error, ok=False)
    text = prompts.memories_text(result.entries)
    return ToolResult(text, effect="retrieved", retrieved=result.entries)


def _read_confirmation(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        value = value.lower() == "true"
    if not isinstance(value, bool):
        raise ToolError(f"confirmation of Delete_memory must be true or false, not {shown(value)}.")
    if not value:
        raise ToolError("Delete_memory deletes only when confirmation is true.")
    return value


_METADATA = Parameter("metadata", dict, False, "Labels to keep with the memory.")
_MEMORY_ID = Parameter(
    "memory_id", str, True, "Id of a memory that was shown to you, such as mem_a5b40d65."
)

ADD = ToolSpec(
    name="Add_memory",
    target="LTM",
    parameters=(
        Parameter("content", str, True, "What to remember, complete in itself."),
        _METADATA,
        Parameter("memory_type", str, False, "Kind of memory, such as fact or preference."),
    ),
    description="Stores a new memory. The result names its id.",
    summary="store a new fact",
    example={"content": "Ana lives in Rome."},
    handler=_add,
)
UPDATE = ToolSpec(
    name="Update_memory",
    target="LTM",
    parameters=(
        _MEMORY_ID,
        Parameter("content", str, True, "The text that takes the place of the old one."),
        _METADATA,
    ),
    description="Replaces a memory that is no longer true or not complete.",
    summary="replace a stored fact that changed",
    example={"memory_id": "mem_a5b40d65", "content": "Ana lives in Oslo."},
    handler=_update,
)
DELETE = ToolSpec(
    name="Delete_memory",
    target="LTM",
    parameters=(
        _MEMORY_ID,
        Parameter(
            "confirmation", bool, True, "Must be true; guards against accidents.",
            aliases=("confirmed",),  # which the paper's own examples use
            read=_read_confirmation,
        ),
    ),
    description="Removes a memory for good.",
    summary="remove a memory; confirmation is true",
    example={"memory_id": "mem_a5b40d65", "confirmation": True},
    handler=_delete,
)  # fmt: skip
RETRIEVE = ToolSpec(
    name="Retrieve_memory",
    target="LTM",
    parameters=(
        Parameter("query", str, True, "What to look for."),
        Parameter(
            "top_k", int, False, f"How many memories, 1 to {MAX_TOP_K}.", default=3,
            minimum=1, maximum=MAX_TOP_K,
        ),
        Parameter("metadata_filter", dict, False, "Labels that a memory must carry to be found."),
    ),
    description="Brings the stored memories nearest to the query into the conversation.",
    summary="look up stored facts",
    example={"query": "Where does Ana live?"},
    handler=_retrieve,
)  # fmt: skip
