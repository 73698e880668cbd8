"""AgeMem and what it is compared with in the paper's ablations, as changes to the episode."""

import dataclasses

from agemem_jax.rollout.episode import Rules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.tools.registry import of_target


@dataclasses.dataclass(frozen=True)
class AgeMem:
    """The three-stage episode, whole or with something taken away.

    Attributes:
      title: as it appears in tables.
      trained: whether it uses the weights after reinforcement learning.
      retrieve_each_step: context tools replaced by retrieval at each step.
      memory: whether Stage 1 is played and tools exist at all.
    """

    title: str
    trained: bool
    retrieve_each_step: bool = False
    memory: bool = True

    def episode(self, base: EpisodeConfig) -> EpisodeConfig:
        """The rules of `base` as this method plays them."""
        if not self.memory:
            stages = tuple(stage for stage in base.stages if stage != 1)
            return dataclasses.replace(base, stages=stages, tools=())
        if self.retrieve_each_step:
            tools = of_target(base.tools, "LTM", "other")
            return dataclasses.replace(base, tools=tools, retrieve_each_step=True)
        return base

    def rules(self, player: Player, episode: EpisodeConfig) -> Rules:
        return player.rules(self.episode(episode))


NO_MEMORY = AgeMem("No-Memory", trained=False, memory=False)
AGEMEM_NORL_RAG = AgeMem("AgeMem-noRL-RAG", trained=False, retrieve_each_step=True)
AGEMEM_RAG = AgeMem("AgeMem-RAG", trained=True, retrieve_each_step=True)
AGEMEM_NORL = AgeMem("AgeMem-noRL", trained=False)
AGEMEM = AgeMem("AgeMem", trained=True)
