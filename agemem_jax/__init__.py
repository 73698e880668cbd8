"""Train, evaluate and use LLM agents that manage their own memory, in JAX.

    import agemem_jax

    agemem_jax.train("quickstart", "runs/a")
    with agemem_jax.load_agent("runs/a", memory="memories.db", user="ana") as agent:
        print(agent.chat("Where do I live?"))

What is listed in `__all__` is the public surface: it changes by semantic versioning
(docs/library.md), and each name is imported when it is first used. All else is private.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"  # setup.cfg reads it from here

if TYPE_CHECKING:
    from agemem_jax.environments.protocol import Environment, Observation, Outcome
    from agemem_jax.environments.registry import ENVIRONMENTS
    from agemem_jax.evaluation.metrics import Measures
    from agemem_jax.library.configuring import config
    from agemem_jax.library.evaluating import evaluate
    from agemem_jax.library.exporting import export
    from agemem_jax.library.loading import load_agent
    from agemem_jax.library.training import train
    from agemem_jax.memory.embedders import Embedder
    from agemem_jax.methods.registry import METHODS, Method
    from agemem_jax.protocol.events import AnswerEvent, RetrievalEvent, RetrievedEntry, ToolEvent
    from agemem_jax.protocol.tools import Parameter, ToolError, ToolResult, ToolSpec
    from agemem_jax.rewards.estimates import Estimate
    from agemem_jax.rewards.judges import Judge
    from agemem_jax.rewards.registry import COMPONENTS as REWARDS
    from agemem_jax.rewards.score import Score
    from agemem_jax.rollout.episode import Rules
    from agemem_jax.rollout.trajectory import Trajectory
    from agemem_jax.serving.agent.agent import Agent
    from agemem_jax.serving.agent.agent_events import (
        ContextCutEvent,
        Reply,
        ResponseEvent,
        TextDelta,
    )
    from agemem_jax.serving.memory.sqlite_store import SQLiteStore
    from agemem_jax.serving.memory.user_memory import MemoryEntry, UserMemory
    from agemem_jax.tasks.registry import SOURCES as TASK_SOURCES
    from agemem_jax.tasks.task import EnvironmentGoal, Question, Task
    from agemem_jax.training.configuration.doors import add_reward, use_credit, use_tasks
    from agemem_jax.training.credit.registry import RULES as CREDIT_RULES
    from agemem_jax.training.credit.rule import Credit, CreditRule

# Where each name of the public surface is.
_PLACES = {
    # What is done.
    "config": "library.configuring",
    "train": "library.training",
    "evaluate": "library.evaluating",
    "export": "library.exporting",
    "load_agent": "library.loading",
    # What a configuration is given.
    "use_tasks": "training.configuration.doors",
    "add_reward": "training.configuration.doors",
    "use_credit": "training.configuration.doors",
    # What is known by name.
    "TASK_SOURCES": "tasks.registry:SOURCES",
    "ENVIRONMENTS": "environments.registry",
    "REWARDS": "rewards.registry:COMPONENTS",
    "CREDIT_RULES": "training.credit.registry:RULES",
    "METHODS": "methods.registry",
    # What a user's own parts are made of.
    "Task": "tasks.task",
    "Question": "tasks.task",
    "EnvironmentGoal": "tasks.task",
    "Environment": "environments.protocol",
    "Observation": "environments.protocol",
    "Outcome": "environments.protocol",
    "ToolSpec": "protocol.tools",
    "Parameter": "protocol.tools",
    "ToolResult": "protocol.tools",
    "ToolError": "protocol.tools",
    "Score": "rewards.score",
    "Judge": "rewards.judges",
    "Trajectory": "rollout.trajectory",
    "Credit": "training.credit.rule",
    "CreditRule": "training.credit.rule",
    "Method": "methods.registry",
    "Rules": "rollout.episode",
    "Embedder": "memory.embedders",
    # What comes back.
    "Measures": "evaluation.metrics",
    "Estimate": "rewards.estimates",
    "Agent": "serving.agent.agent",
    "Reply": "serving.agent.agent_events",
    "TextDelta": "serving.agent.agent_events",
    "ResponseEvent": "serving.agent.agent_events",
    "ContextCutEvent": "serving.agent.agent_events",
    "ToolEvent": "protocol.events",
    "RetrievalEvent": "protocol.events",
    "RetrievedEntry": "protocol.events",
    "AnswerEvent": "protocol.events",
    "UserMemory": "serving.memory.user_memory",
    "MemoryEntry": "serving.memory.user_memory",
    "SQLiteStore": "serving.memory.sqlite_store",
}

__all__ = (
    "AnswerEvent", "Agent", "CREDIT_RULES", "ContextCutEvent", "Credit", "CreditRule",
    "ENVIRONMENTS", "Embedder", "Environment", "EnvironmentGoal", "Estimate", "Judge", "METHODS",
    "Measures", "MemoryEntry", "Method", "Observation", "Outcome", "Parameter", "Question",
    "REWARDS", "Reply", "ResponseEvent", "RetrievalEvent", "RetrievedEntry", "Rules",
    "SQLiteStore", "Score", "TASK_SOURCES", "Task", "TextDelta", "ToolError", "ToolEvent",
    "ToolResult", "ToolSpec", "Trajectory", "UserMemory", "__version__", "add_reward", "config",
    "evaluate", "export", "load_agent", "train", "use_credit", "use_tasks",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """A name of the public surface, which is imported now."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute or name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
