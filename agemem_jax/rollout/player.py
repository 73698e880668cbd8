"""Plays tasks with a policy: engine, memory store and episode rules put together."""

from collections.abc import Sequence

import jax
from jaxtyping import Array, Key

from agemem_jax.memory.embedders import Embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.rollout.driver import PolicyBackend, Rollout, run_episodes
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.episode import EpisodeConfig, EpisodeRules
from agemem_jax.rollout.generation import EngineConfig
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task


class Player:
    """Keeps one engine and one store across calls, so that nothing compiles twice."""

    def __init__(
        self,
        model: DecoderConfig,
        chat: ChatEncoder,
        engine: EngineConfig,
        embedder: Embedder,
        memory_entries: int,
    ):
        self.chat = chat
        self.engine = Engine(engine, model, chat.stop_id, chat.decode)
        self.store = MemoryStore.create(embedder, rollouts=engine.slots, entries=memory_entries)

    def rules(self, episode: EpisodeConfig) -> EpisodeRules:
        """The rules of an episode as this player's policy reads them."""
        return EpisodeRules(episode, self.chat)

    def play(
        self,
        weights: Weights,
        rollouts: Sequence[Rollout],
        episode: EpisodeConfig,
        temperature: float,
    ) -> list[Trajectory]:
        """One trajectory per rollout, in the same order."""
        rules = self.rules(episode)
        self.engine.load(weights, rules.shared_prefix)
        backend = PolicyBackend(self.engine, temperature)
        trajectories = run_episodes(rollouts, rules, self.store, backend)
        self.engine.release()  # an update needs the memory, and changes the weights
        return trajectories


def group_rollouts(tasks: Sequence[Task], group_size: int, key: Key[Array, ""]) -> list[Rollout]:
    """K rollouts of each task, group after group.

    Every trajectory's key is folded from `key` by task and by rollout.
    """
    return [
        Rollout(task, jax.random.fold_in(jax.random.fold_in(key, index), rollout))
        for index, task in enumerate(tasks)
        for rollout in range(group_size)
    ]
