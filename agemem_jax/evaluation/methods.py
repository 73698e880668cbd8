"""The methods that an evaluation compares (section 4.1), as changes to the episode.

| method | weights | what it may do |
|---|---|---|
| no_memory | before RL | answers from the Stage 2 and 3 context; no tools, nothing kept |
| agemem_norl_rag | before RL | memory tools; retrieval at each step instead of context tools |
| agemem_rag | after RL | the same |
| agemem_norl | before RL | all six tools |
| agemem | after RL | all six tools |
"""

import dataclasses

from agemem_jax.protocol.tools import TOOLS
from agemem_jax.rollout.episode import EpisodeConfig

LONG_TERM_TOOLS = tuple(tool.name for tool in TOOLS if tool.target == "LTM")


@dataclasses.dataclass(frozen=True)
class Method:
    """A method under test.

    Attributes:
      name: as it appears on the command line.
      title: as it appears in tables.
      trained: whether it uses the weights after reinforcement learning.
      retrieve_each_step: context tools replaced by retrieval at each step.
      memory: whether Stage 1 is played and tools exist at all.
    """

    name: str
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
            tools = tuple(name for name in base.tools if name in LONG_TERM_TOOLS)
            return dataclasses.replace(base, tools=tools, retrieve_each_step=True)
        return base


METHODS = {
    method.name: method
    for method in (
        Method("no_memory", "No-Memory", trained=False, memory=False),
        Method("agemem_norl_rag", "AgeMem-noRL-RAG", trained=False, retrieve_each_step=True),
        Method("agemem_rag", "AgeMem-RAG", trained=True, retrieve_each_step=True),
        Method("agemem_norl", "AgeMem-noRL", trained=False),
        Method("agemem", "AgeMem", trained=True),
    )
}
