"""The table of methods (section 4.1).

| method | weights | what it may do |
|---|---|---|
| random, expert | none | any listed action or name; what the environment demonstrates, the answer |
| no_memory | before RL | answers from the Stage 2 and 3 context; no tools, nothing kept |
| agemem_norl_rag | before RL | memory tools; retrieval at each step instead of context tools |
| agemem_rag | after RL | the same |
| agemem_norl | before RL | all six tools |
| agemem | after RL | all six tools |
| mem0 | before RL | a pipeline stores facts; what it finds is shown at each step |
| mem0_graph | before RL | the same, and relations between entities |
| langmem | before RL | a manager inserts, patches and deletes by calls; shown alike |
| a_mem | before RL | messages are notes that link to and change each other; shown alike |

Memory systems with a pipeline take options, as in "mem0(trained=True)": `methods.memory_system`.
"""

from collections.abc import Sequence
from typing import Protocol

from agemem_jax.plugins.registry import Registry
from agemem_jax.rollout.episode import Rules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player

METHODS = Registry(
    "method",
    {
        "random": "agemem_jax.methods.scripted:RANDOM",
        "expert": "agemem_jax.methods.scripted:EXPERT",
        "no_memory": "agemem_jax.methods.agemem:NO_MEMORY",
        "agemem_norl_rag": "agemem_jax.methods.agemem:AGEMEM_NORL_RAG",
        "agemem_rag": "agemem_jax.methods.agemem:AGEMEM_RAG",
        "agemem_norl": "agemem_jax.methods.agemem:AGEMEM_NORL",
        "agemem": "agemem_jax.methods.agemem:AGEMEM",
        "mem0": "agemem_jax.methods.mem0:Mem0",
        "mem0_graph": "agemem_jax.methods.mem0_graph:Mem0Graph",
        "langmem": "agemem_jax.methods.langmem:LangMem",
        "a_mem": "agemem_jax.methods.a_mem:AMem",
    },
)


# What an evaluation compares where nobody asks for others: the paper's.
COMPARED = ("no_memory", "agemem_norl_rag", "agemem_rag", "agemem_norl", "agemem")


class Method(Protocol):
    """A method under test, or in training.

    Attributes:
      title: as it appears in tables.
      trained: whether an evaluation gives it the weights after reinforcement learning.
    """

    title: str
    trained: bool

    def rules(self, player: Player, episode: EpisodeConfig) -> Rules:
        """How it plays tasks.

        Args:
          player: whose `rules` are those of AgeMem, and whose `chat` encodes messages.
          episode: the rules that the run is configured with.
        """
        ...


def find_method(name: str | Method) -> Method:
    """A method by name, by `package.module:attribute`, or itself.

    Raises:
      ValueError: there is none, or it is no method.
    """
    method = METHODS.build(name)
    missing = [each for each in ("title", "trained", "rules") if not hasattr(method, each)]
    if missing:
        raise ValueError(
            f"The method {name!r} has no {missing[0]}; a method has a title, says whether it is "
            "trained, and gives its rules."
        )
    return method


def find_methods(names: Sequence[str]) -> dict[str, Method]:
    """The methods by name, in order. Raises ValueError for one that is not known."""
    return {name: find_method(name) for name in names}
