"""Environments served by OpenEnv (`pip install openenv`): a server on the net, a client here.

An episode is one session of the server, which must allow as many at once as there are workers
(`max_concurrent_envs` of its `create_app`). Either an action is text that becomes the server's
action, or the tools that the server lists (MCP) are the agent's.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from agemem_jax.environments.protocol import Observation, Outcome
from agemem_jax.environments.tool_schemas import tool_from_schema
from agemem_jax.plugins.registry import load
from agemem_jax.protocol.tools import ToolSpec

_REFUSALS = ("VALIDATION_ERROR", "EXECUTION_ERROR")  # an action that the server could not do
_NOT_SEEN = ("reward", "done", "metadata")


@dataclasses.dataclass
class OpenEnv:
    """The environment "openenv".

    Attributes:
      base_url: of the server.
      acts_by: "action", or "tools" for an environment whose actions are tools (MCP); these are
        asked from the server, which must run already.
      client: class of the client, as `my_env:MyEnv`; "" is OpenEnv's generic one, which needs
        nothing of the environment's package.
      action: class of an action, as `my_env:MyAction`; "" sends the fields as they are.
      field: of the action that takes the text; "" is for several: an action is a JSON object.
      observation: what is shown of an observation, such as `message` or `messages.-1.content`; ""
        shows all of it as JSON.
      arguments: of `reset`, beside the episode's seed.
      reward: what counts: that of the "last" step, or the "sum" of all.
      full_reward: the reward that means that the goal is reached, where the episode is done:
        progress is the part of it.
    """

    base_url: str = "http://localhost:8000"
    acts_by: Literal["action", "tools"] = "action"
    client: str = ""
    action: str = ""
    field: str = ""
    observation: str = ""
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reward: Literal["last", "sum"] = "last"
    full_reward: float = 1.0

    def __post_init__(self):
        if self.full_reward <= 0:
            raise ValueError(f"full_reward is {self.full_reward}; it must be above 0.")
        self._client = None

    @classmethod
    def tools(cls, acts_by: str, base_url: str, **others: Any) -> tuple[ToolSpec, ...] | None:
        """Those of the server, where they are what the agent acts by."""
        del others
        return _tools(base_url) if acts_by == "tools" else None

    def reset(self, seed: int) -> Observation:
        kind = load(self.client) if self.client else _generic_client()
        self._client = _connected(kind, self.base_url)
        self._score, self._outcome = 0.0, Outcome("")
        result = self._client.reset(**{"seed": seed, **self.arguments})
        return Observation(self._shown(result.observation) or "It begins.")

    def step(self, action: str) -> Outcome:
        return self._done(lambda: self._client.step(self._action(action)), self._shown)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Outcome:
        action = {"type": "call_tool", "tool_name": name, "arguments": dict(arguments)}
        return self._done(lambda: self._client.step(action), _tool_result)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _done(self, act: Callable[[], Any], show: Callable[[Any], str]) -> Outcome:
        if self._outcome.done:
            return self._outcome
        last = self._outcome
        try:
            result = act()
            text = show(result.observation)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(c in str(error) for c in _REFUSALS):
                raise
            return Outcome(f"Error: {_reason(error)}", last.progress, valid=False)
        reward = float(result.reward or 0.0)
        self._score = self._score + reward if self.reward == "sum" else reward
        progress = min(1.0, max(0.0, self._score / self.full_reward))
        done = bool(result.done)
        self._outcome = Outcome(text, progress, done, won=done and progress == 1.0)
        return self._outcome

    def _action(self, text: str) -> Any:
        """The server's action that a text means; raises ValueError where it means none."""
        values = {self.field: text.strip()} if self.field else _json(text)
        if not isinstance(values, dict):
            raise ValueError('an action is a JSON object, such as {"name": "value"}.')
        return load(self.action)(**values) if self.action else values

    def _shown(self, observation: Any) -> str:
        seen = _plain(observation)
        if not self.observation:
            seen = {key: each for key, each in seen.items() if each not in (None, "", [], {})}
            return json.dumps(seen, ensure_ascii=False) if seen else ""
        value = seen
        for key in self.observation.split("."):
            try:
                value = value[int(key) if isinstance(value, list) else key]
            except (LookupError, TypeError, ValueError) as error:
                raise LookupError(
                    f"observation is {self.observation!r}, which is not in what is seen: {seen}"
                ) from error
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _generic_client() -> type:
    try:
        from openenv.core import GenericEnvClient
    except ImportError as error:
        raise ImportError(
            "openenv is not installed; pip install -r requirements-openenv.txt."
        ) from error
    return GenericEnvClient


def _connected(kind: type, base_url: str) -> Any:
    return kind(base_url=base_url).sync().connect()


@functools.cache
def _tools(base_url: str) -> tuple[ToolSpec, ...]:
    client = _connected(_generic_client(), base_url)
    try:
        listed = client.step({"type": "list_tools"}).observation.get("tools", [])
    except RuntimeError as error:
        raise ValueError(
            f"acts_by is 'tools', but the server at {base_url} lists none; acts_by='action' is "
            "for its kind."
        ) from error
    finally:
        client.close()
    schemas = [each.get("input_schema", each.get("inputSchema", {})) for each in listed]
    return tuple(
        tool_from_schema(each["name"], each.get("description") or "", schema)
        for each, schema in zip(listed, schemas, strict=True)
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    """Why an action was refused, in one line; of pydantic's, what is wrong with each field."""
    if hasattr(error, "errors"):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return " ".join(str(error).split())[:300]


def _plain(observation: Any) -> dict[str, Any]:
    """An observation in values of JSON, without what is told beside it."""
    if hasattr(observation, "model_dump"):
        observation = observation.model_dump(mode="json")
    elif dataclasses.is_dataclass(observation):
        observation = dataclasses.asdict(observation)
    return {key: each for key, each in observation.items() if key not in _NOT_SEEN}


def _tool_result(observation: Mapping[str, Any]) -> str:
    """The text that a tool returned; raises ValueError for what was wrong with the call."""
    if error := observation.get("error"):
        raise ValueError(error.get("message", error) if isinstance(error, Mapping) else error)
    result = observation.get("result")
    if isinstance(result, Mapping) and isinstance(result.get("content"), list):
        parts = result["content"]
        result = "\n".join(each.get("text", f"[{each.get('type')}]") for each in parts)
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
