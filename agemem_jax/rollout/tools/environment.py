"""The tools that act in the environment of Stage 3: `Act`, or those that it declares itself."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_jax.environments.registry import ENVIRONMENTS
from agemem_jax.plugins.registry import checked_options, options_of, split
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


def declared_tools(environment: Any, options: Mapping[str, Any]) -> tuple[ToolSpec, ...] | None:
    """The tools that an environment brings in place of `Act`; None where it declares none.

    They are the same objects whenever they read the same, so that all episodes with them share
    one system prompt.

    Args:
      environment: as a goal names it, or a class.
      options: that it is built with; those in its name count, too.

    Raises:
      ValueError: there is no such environment, an option is wrong, or its tools could not be
        called, in one sentence.
    """
    where = environment if isinstance(environment, str) else environment.__name__
    if isinstance(environment, str):
        environment, own = split(environment)
        options = {**own, **options}
    kind = ENVIRONMENTS.find(environment)
    declared = getattr(kind, "tools", None)
    if callable(declared):
        declared = declared(**{**options_of(kind), **checked_options(kind, options, where)})
    if declared is None:
        return None
    _check(where, kind, declared)
    return _KNOWN.setdefault(repr(declared), tuple(_to_environment(spec) for spec in declared))


_KNOWN: dict[str, tuple[ToolSpec, ...]] = {}


def _check(where: str, kind: type, declared: Any) -> None:
    if not isinstance(declared, Sequence) or not declared:
        raise ValueError(
            f"The tools of the environment {where} are {declared!r}; they must be a list of "
            "ToolSpecs, of one at least."
        )
    for spec in declared:
        if not isinstance(spec, ToolSpec):
            raise ValueError(
                f"A tool of the environment {where} is a {type(spec).__name__}; it must be a "
                "ToolSpec."
            )
    if not callable(getattr(kind, "call", None)):
        raise ValueError(
            f"The environment {where} declares tools and has no method call(name, arguments), "
            "which would run them."
        )


def _to_environment(spec: ToolSpec) -> ToolSpec:
    return dataclasses.replace(spec, target="environment", handler=act_by(spec.name))
