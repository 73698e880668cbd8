"""Environments written for TRL's `environment_factory`: a class whose public methods are tools.

TRL (`GRPOTrainer`) calls the factory without arguments, then `reset` with the columns of the data
set's row; every public method but `reset` and `get_reward` is a tool, described by its type hints
and its docstring in Google style. Neither TRL nor torch is needed here.
"""

import asyncio
import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from agemem_jax.environments.protocol import Observation, Outcome
from agemem_jax.environments.tool_schemas import tool_from_schema
from agemem_jax.plugins.registry import load
from agemem_jax.protocol.tools import ToolSpec

_NO_TOOLS = ("reset", "get_reward")


@dataclasses.dataclass
class TRLEnvironment:
    """The environment "trl".

    A method that raises tells the agent why, as in TRL, and counts as an action that could not
    be done. Where the environment has an attribute `done`, that ends the episode; otherwise the
    full reward does.

    Attributes:
      factory: the class, or the function without arguments that makes one, as
        `package.module:MyEnvironment`.
      arguments: of `reset`: the row of the data set. `prompt` among them is shown as the goal. Its
        `seed` is the episode's, unless it is given here or `reset` takes none.
      reward: the attribute that holds the reward, or the method without arguments that computes
        it; it is read after each call, and what it says at the end counts. "" is `get_reward`
        where there is one, and `reward` otherwise.
      full_reward: the reward that means that the goal is reached: progress is the part of it.
      done: the attribute that says whether the episode is over.
    """

    factory: str = ""
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reward: str = ""
    full_reward: float = 1.0
    done: str = "done"

    def __post_init__(self):
        if self.full_reward <= 0:
            raise ValueError(f"full_reward is {self.full_reward}; it must be above 0.")

    @classmethod
    def tools(cls, factory: str, **others: Any) -> tuple[ToolSpec, ...]:
        """The public methods, by name as in TRL.

        Raises:
          ValueError: there is no such factory, or a method lacks a type hint or a docstring.
        """
        del others
        return _tools(factory)

    def reset(self, seed: int) -> Observation:
        self._loop = None
        self._environment = environment = _found(self.factory)()
        self._outcome = Outcome("")
        row = dict(self.arguments)
        taken = inspect.signature(environment.reset).parameters
        if "seed" in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            row.setdefault("seed", seed)
        seen = _text(environment.reset(**row))
        return Observation(seen or "It begins.", _text(row.get("prompt")))

    def call(self, name: str, arguments: Mapping[str, Any]) -> Outcome:
        if self._outcome.done:
            return self._outcome
        try:
            text, valid = _text(self._run(getattr(self._environment, name), **arguments)), True
        except Exception as error:  # which TRL shows to the agent
            text, valid = f"Error: {error}", False
        reward = self._reward()
        reached = reward >= self.full_reward
        done = bool(getattr(self._environment, self.done, reached))
        won = done and bool(getattr(self._environment, "won", reached))
        progress = min(1.0, max(0.0, reward / self.full_reward))
        self._outcome = Outcome(text, progress, done, won, valid)
        return self._outcome

    def _reward(self) -> float:
        environment, name = self._environment, self.reward
        name = name or ("get_reward" if hasattr(environment, "get_reward") else "reward")
        if not hasattr(environment, name):
            raise AttributeError(
                f"{self.factory} has no {name!r}; the option reward must name the attribute or "
                "method of its reward"
            )
        value = getattr(environment, name)
        return float((self._run(value) if callable(value) else value) or 0.0)

    def _run(self, method: Any, **arguments: Any) -> Any:
        """What a method returns, one that is a coroutine included."""
        result = method(**arguments)
        if inspect.isawaitable(result):
            # One loop for the whole episode: connections belong to the loop that opened them.
            self._loop = self._loop or asyncio.new_event_loop()
            result = self._loop.run_until_complete(result)
        return result


def _found(factory: str) -> Any:
    if not factory:
        raise ValueError(
            "factory is empty; it must name a class of yours, as package.module:MyEnvironment."
        )
    try:
        return load(factory)
    except ValueError as error:
        raise ValueError(f"factory is {factory!r}: {error}") from error


@functools.cache
def _tools(factory: str) -> tuple[ToolSpec, ...]:
    from transformers.utils import get_json_schema

    made = _found(factory)
    kind = made if inspect.isclass(made) else type(made())
    specs = []
    for name, method in inspect.getmembers(kind, inspect.isroutine):
        static = isinstance(inspect.getattr_static(kind, name), staticmethod)
        if name.startswith("_") or name in _NO_TOOLS or static:
            continue
        try:
            schema = get_json_schema(method)["function"]
        except Exception as error:  # a hint or a sentence is missing; it says which
            text = " ".join(str(error).split())
            raise ValueError(f"The tool {name} of {factory}: {text}") from error
        specs.append(tool_from_schema(name, schema["description"], schema["parameters"]))
    return tuple(specs)


def _text(content: Any) -> str:
    """What a message says: text, blocks of content, or a whole conversation."""
    if content is None:
        return ""
    if not isinstance(content, list | tuple):
        return str(content)
    if not all(isinstance(each, Mapping) and {"content", "type"} & set(each) for each in content):
        return str(content)
    parts = [each.get("content", each.get("text", f"[{each.get('type')}]")) for each in content]
    return "\n".join(_text(part) for part in parts)
