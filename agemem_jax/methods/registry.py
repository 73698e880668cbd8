"""The table of methods (section 4.1).

| method | weights | what it may do |
|---|---|---|
| random, expert | none | any listed action or name; what the environment demonstrates, the answer |
| no_memory | before RL | answers from the Stage 2 and 3 context; no tools, nothing kept |
| agemem_norl_rag | before RL | memory tools; retrieval at each step instead of context tools |
| agemem_rag | after RL | the same |
| agemem_norl | before RL | all six tools |
| agemem | after RL | all six tools |
| full_context | before RL | reads all of the history, as far as the budget goes; no tools |
| file_search | before RL | searches the history, kept word for word as a file |
| archive_turns | before RL | retrieves from the history, stored by four turns |
| exprag | before RL | reads solved tasks of the training split; hears no history |
| resum | before RL | goes on from summaries that it writes of its context |
| mem0 | before RL | a pipeline stores facts; what it finds is shown at each step |
| mem0_graph | before RL | the same, and relations between entities |
| langmem | before RL | a manager inserts, patches and deletes by calls; shown alike |
| a_mem | before RL | messages are notes that link to and change each other; shown alike |
| NAME+rl | after RL | what the method NAME may do: for a run that trained it (`config.method`) |

Some take options, as in "archive_turns(turns=8)": the fields of their class.
"""

import dataclasses
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
        "full_context": "agemem_jax.methods.full_context:FullContext",
        "file_search": "agemem_jax.methods.file_search:FileSearch",
        "archive_turns": "agemem_jax.methods.archive_turns:ArchiveTurns",
        "exprag": "agemem_jax.methods.exprag:ExpRAG",
        "resum": "agemem_jax.methods.resum:ReSum",
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


@dataclasses.dataclass(frozen=True)
class Trained:
    """A method with the weights of the run's reinforcement learning, whatever it says itself."""

    method: Method
    trained: bool = True

    @property
    def title(self) -> str:
        return self.method.title if self.method.trained else f"{self.method.title} + RL"

    def rules(self, player: Player, episode: EpisodeConfig) -> Rules:
        return self.method.rules(player, episode)


_TRAINED = "+rl"


def find_method(name: str | Method) -> Method:
    """A method by name, by `package.module:attribute`, or itself.

    With `+rl` behind its name it has the weights after reinforcement learning.

    Raises:
      ValueError: there is none, or it is no method.
    """
    if isinstance(name, str) and name.endswith(_TRAINED):
        return Trained(find_method(name.removesuffix(_TRAINED)))
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
