"""Runs the calls of a response; what tools see and change of an episode.

One half of an episode; stages and turns, the other one, are in `episode.py`. Whatever is
wrong with a call becomes an event and a sentence that the policy reads, never an error.
"""

import abc
import functools
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agemem_jax.protocol import prompts
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.protocol.events import Event, ToolEvent
from agemem_jax.protocol.messages import Context, Kind, Message
from agemem_jax.protocol.parser import InvalidCall
from agemem_jax.protocol.tools import ToolCall, ToolError, ToolResult, ToolTable
from agemem_jax.rollout.requests import HostCall, Request

if TYPE_CHECKING:
    from agemem_jax.rollout.episode_config import EpisodeConfig
    from agemem_jax.rollout.goals import Interaction

Play = Generator[Request, Any, Any]


class ToolUse(abc.ABC):
    """The state of an episode that the handlers of tools read and change.

    Attributes:
      config: the rules.
      chat: the chat format.
      tools: what the policy can call.
      context: C_t.
      memory: contents of M_t by id, as the events say.
      events: what happened so far.
      stage: 1, 2 or 3.
      summaries: how many were written for the current response.
      interaction: the environment of Stage 3, while the policy acts in one.
    """

    config: "EpisodeConfig"
    chat: ChatEncoder
    tools: ToolTable
    context: Context
    memory: dict[str, str]
    events: list[Event]
    stage: int
    summaries: int
    interaction: "Interaction | None"

    @abc.abstractmethod
    def generate(
        self, context: Context, max_tokens: int, purpose: str = "act"
    ) -> Generator[Request, Any, Message]:
        """Asks for a response to `context`, records it, returns it as a message."""

    def run_calls(self, calls: Sequence[ToolCall | InvalidCall], step: int) -> Play:
        """Runs the calls of one response, so many of them; what the policy reads, in lines."""
        self.summaries = 0
        lines = []
        limit = self.config.max_calls
        for call in calls[:limit]:
            before, memory = self.context, dict(self.memory)
            result = yield from self.run_tool(call)
            self.record(call, step, result, before, memory.get(result.memory_id))
            lines.append(result.text if result.ok else prompts.error_text(result.text))
        beyond = calls[limit:]
        if beyond:
            error = f"Only the first {limit} calls of a reply are run; {len(beyond)} were not."
            lines.append(prompts.error_text(error))
            for call in beyond:
                self.record(call, step, ToolResult(error, ok=False), self.context)
        return lines

    def record(
        self,
        call: ToolCall | InvalidCall,
        step: int,
        result: ToolResult,
        before: Context,
        previous: str | None = None,
    ) -> None:
        """Adds the event of a call that was tried.

        Args:
          call: as it was read.
          step: of the response with the call.
          result: what came of it.
          before: the context in front of the call.
          previous: what its entry held in front of the call.
        """
        kept = {id(message) for message in self.context.messages}
        gone = [m for m in before.messages if id(m) not in kept and m.kind is not Kind.RESPONSE]
        self.events.append(
            ToolEvent(
                stage=self.stage,
                step=step,
                name=call.name,
                arguments=call.arguments if isinstance(call, ToolCall) else {"raw": call.raw},
                ok=result.ok,
                effect=result.effect if result.ok else None,
                error=None if result.ok else result.text,
                memory_id=result.memory_id,
                content=result.content,
                retrieved=result.retrieved,
                tokens_before=before.num_tokens,
                tokens_after=self.context.num_tokens,
                previous=previous,
                removed=tuple(message.text for message in gone),
            )
        )

    def run_tool(self, call: ToolCall | InvalidCall) -> Play:
        """Runs one call; a wrong one and a `ToolError` of its handler give a failed result."""
        if not isinstance(call, ToolCall):
            return ToolResult(call.error, ok=False)
        spec = self.tools[call.name]
        if not inspect.isgeneratorfunction(spec.handler):
            function = functools.partial(_call, spec.handler, call.arguments)
            return (yield HostCall(function, spec.timeout, f"The tool {call.name}"))
        try:
            return (yield from spec.handler(self, call.arguments))
        except ToolError as error:
            return ToolResult(str(error), ok=False)


def _call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> ToolResult:
    """The result of a handler that is a plain function."""
    try:
        result = function(**arguments)
    except ToolError as error:
        return ToolResult(str(error), ok=False)
    return result if isinstance(result, ToolResult) else ToolResult(str(result))
