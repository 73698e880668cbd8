"""Plays tasks with a policy: engine, memory store and episode rules put together."""

import copy
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from agemem_jax.environments.pool import EnvironmentConfig, EnvironmentPool
from agemem_jax.memory.embedders import Embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.parallel import rules
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.rollout.driver import PolicyBackend, Rollout, run_episodes
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.episode import Episode, EpisodeRules, Rules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.generation import EngineConfig
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Goal, Question, Task


class Player:
    """Keeps one engine and one store across calls, so that nothing compiles twice."""

    def __init__(
        self,
        model: DecoderConfig,
        chat: ChatEncoder,
        engine: EngineConfig,
        embedder: Embedder,
        memory_entries: int,
        mesh: Mesh | None = None,
        memory_device: str = "auto",
        environments: EnvironmentConfig | None = None,
        goals: Sequence[Goal] = (Question("", ""),),
        past: Callable[[], Sequence[Task]] | None = None,
    ):
        """A player whose slots are split over `mesh`, that of rollouts.

        So are memories, unless `memory_device` puts them on the host (`MemoryConfig.device`).
        `goals` has one of each kind that tasks have, which tells how prompts begin. `past` gives
        the tasks of the training split, for methods that learn from examples; the same object
        gives the same tasks.
        """
        self.chat = chat
        self.engine = Engine(engine, model, chat.stop_ids, chat.decode, mesh)
        split = None
        if mesh is not None:
            split = rules.activation_sharding(mesh, (engine.slots,), "batch")
        self.store = MemoryStore.create(
            embedder, rollouts=engine.slots, entries=memory_entries, sharding=split,
            device=memory_device,
        )  # fmt: skip
        self.environments = EnvironmentPool(environments)
        self.past = past
        self._goals = tuple(goals)
        self._dropping: set[str] = set()

    def playing(
        self, goals: Sequence[Goal], past: Callable[[], Sequence[Task]] | None = None
    ) -> "Player":
        """The same player where tasks have other kinds of goals, and perhaps another `past`."""
        other = copy.copy(self)
        other._goals = tuple(goals)
        other.past = past or self.past
        return other

    def rules(
        self,
        episode: EpisodeConfig,
        start: Callable[[EpisodeRules, Task], Episode] | None = None,
    ) -> EpisodeRules:
        """The rules of an episode as this player's policy reads them; `start` as they take it."""
        return EpisodeRules(episode, self.chat, self._goals, self._dropping, start)

    def play(
        self,
        weights: Weights,
        rollouts: Sequence[Rollout],
        rules: Rules,
        temperature: float,
        check: Callable[[], None] = lambda: None,
        on_end: Callable[[int, Trajectory], None] = lambda index, trajectory: None,
    ) -> list[Trajectory]:
        """One trajectory per rollout, in the same order; `on_end` gets each with its place when it
        has ended.

        An exception that `check` raises between two ticks drops them all.
        """
        self.engine.load(weights, rules.shared_prefix)
        del weights  # of which the engine may have made itself another copy
        backend = PolicyBackend(self.engine, temperature)
        try:
            return run_episodes(
                rollouts, rules, self.store, backend, self.environments, check, on_end
            )
        finally:
            self.engine.release()  # an update needs the memory, and changes the weights


def group_rollouts(
    tasks: Sequence[Task],
    group_size: int,
    key: Key[Array, ""],
    *,
    shard_index: int = 0,
    shard_count: int = 1,
    first: int = 0,
) -> list[Rollout]:
    """K rollouts of each task, group after group.

    Every trajectory's key is folded from `key` by task and by rollout.

    Args:
      tasks: of this process.
      group_size: K.
      key: of the iteration.
      shard_index, shard_count: this process's tasks are every `shard_count`-th of the
        iteration's, from `shard_index` on; keys are those that one process would give.
      first: tasks that the iteration has played before these.
    """
    return [
        Rollout(task, jax.random.fold_in(jax.random.fold_in(key, first + index), rollout))
        for index, task in zip(
            range(shard_index, len(tasks) * shard_count, shard_count), tasks, strict=True
        )
        for rollout in range(group_size)
    ]
