"""The tool that acts in the environment of Stage 3."""

from collections.abc import Mapping
from typing import Any

from agemem_jax.protocol.tools import Parameter, ToolResult, ToolSpec
from agemem_jax.rollout.tool_use import Play, ToolUse


def _act(episode: ToolUse, arguments: Mapping[str, Any]) -> Play:
    if episode.interaction is None:
        return ToolResult("There is nothing to act in yet.", ok=False)
    return (yield from episode.interaction.act(arguments["action"]))


ACT = ToolSpec(
    name="Act",
    target="environment",
    parameters=(
        Parameter(
            "action", str, True,
            'One action; "check available actions" lists what can be done.',
        ),
    ),
    description="Does something in the environment. The result is what you see then.",
    summary="act for the goal",
    example={"action": "go to desk 1"},
    handler=_act,
)  # fmt: skip


def act_by(name: str) -> Any:
    """The handler of a tool that an environment declares itself."""

    def handler(episode: ToolUse, arguments: Mapping[str, Any]) -> Play:
        if episode.interaction is None:
            return ToolResult("There is nothing to act in yet.", ok=False)
        return (yield from episode.interaction.call(name, arguments))

    return handler
