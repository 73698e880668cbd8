"""The table of tools by name, and the tools of an episode."""

import functools
import sys
from collections.abc import Sequence

from agemem_jax.plugins.registry import Registry
from agemem_jax.protocol.tools import ToolSpec, ToolTable

_HERE = "agemem_jax.rollout.tools"

# The six of the paper (section 3.2), in the order in which prompts list them.
TOOLS = Registry(
    "tool",
    {
        "Add_memory": f"{_HERE}.memory:ADD",
        "Update_memory": f"{_HERE}.memory:UPDATE",
        "Delete_memory": f"{_HERE}.memory:DELETE",
        "Retrieve_memory": f"{_HERE}.memory:RETRIEVE",
        "Summary_context": f"{_HERE}.context:SUMMARY",
        "Filter_context": f"{_HERE}.context:FILTER",
    },
)
TOOL_NAMES = TOOLS.names


@functools.cache
def tool_table(tools: tuple[str | ToolSpec, ...] = TOOL_NAMES) -> ToolTable:
    """The tools by name, `package.module:attribute`, or as they are, in that order.

    Raises:
      ValueError: one is unknown, is no `ToolSpec`, or could not be run.
    """
    return ToolTable([_spec(tool) for tool in tools])


def _spec(tool: str | ToolSpec) -> ToolSpec:
    spec = TOOLS.find(tool)
    if not isinstance(spec, ToolSpec):
        raise ValueError(f"The tool {tool!r} is a {type(spec).__name__}; it must be a ToolSpec.")
    return spec


def of_target(tools: Sequence[str | ToolSpec], *targets: str) -> tuple[str | ToolSpec, ...]:
    """Those of the tools that work on one of `targets`, such as "LTM"."""
    return tuple(tool for tool in tools if _spec(tool).target in targets)


def name_of_tool(tool: str | ToolSpec) -> str:
    """How a tool is named in the record of a run.

    Raises:
      ValueError: it cannot be found again by a name.
    """
    if isinstance(tool, str):
        return tool
    if tool.name in TOOLS.names and TOOLS.find(tool.name) is tool:
        return tool.name
    module = sys.modules.get(getattr(tool.handler, "__module__", None))
    for name, value in vars(module).items() if module else ():
        if value is tool:
            return f"{module.__name__}:{name}"
    raise ValueError(
        f"The tool {tool.name} cannot be named in the record of a run; let it stand in the module "
        "of its handler, or name it as package.module:attribute."
    )
