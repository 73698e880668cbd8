"""The demonstrations of a run's warm-up, played once at its start."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging

from agemem_jax.methods.memory_system import SystemRules
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules, Rules
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.warmup.demonstrations import ScriptBackend, ScriptedAgent
from agemem_jax.training.warmup.reading_agent import ReadingAgent
from agemem_jax.training.warmup.system_agent import SystemAgent


def play_demonstrations(
    config: RunConfig, player: Player, rules: Rules, check: Callable[[], None]
) -> list[Trajectory]:
    """Episodes of the scripted agent on training tasks; they follow from the seed.

    Args:
      config: of the run.
      player: whose memory and environments they are played with.
      rules: of the episodes.
      check: called between ticks; an exception that it raises ends everything.

    Raises:
      ValueError: none could be played, or the method demonstrates nothing.
    """
    source = config.tasks.load("train")
    rng = np.random.default_rng([config.seed, 1])
    count = config.warmup.episodes
    picks = rng.choice(len(source), size=count, replace=count > len(source))
    key = jax.random.key(config.seed)
    rollouts = [Rollout(source[int(i)], key) for i in picks]
    agent = functools.partial(agent_for, rules)
    backend = ScriptBackend(
        player.chat, config.warmup.imperfection, config.seed, config.engine.slots, agent
    )
    try:
        played = run_episodes(rollouts, rules, player.store, backend, player.environments, check)
    finally:
        backend.close()
    intact = [t for t in played if t.fault is None]
    if not intact:
        raise ValueError(f"No demonstration for the warm-up could be played: {played[0].fault}")
    if len(intact) < len(played):
        logging.warning("%d demonstrations failed and are left out", len(played) - len(intact))
    return intact


def agent_for(rules: Rules, task: Task, *arguments: Any) -> ScriptedAgent:
    """The scripted agent that plays `task` by these rules; `arguments` are its other ones."""
    if isinstance(rules, SystemRules):
        return SystemAgent(rules.method, task, *arguments)
    if not isinstance(rules, EpisodeRules):  # of a user's own method, whose tools are not known
        return ScriptedAgent(task, *arguments)
    tools = rules.tools(task.goal).names
    agent = ScriptedAgent if "Add_memory" in tools else ReadingAgent
    return agent(task, *arguments, tools=tools)
