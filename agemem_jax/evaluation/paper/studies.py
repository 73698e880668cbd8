"""What each table and figure of the paper needs: variants of a configuration, methods, tasks.

A study names what is to be there before it can be rendered; studies that need the same share it.
Which records they are made of stands in `results.py`, how they look in `tables.py` and
`figures.py`.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from agemem_jax.methods.registry import METHODS
from agemem_jax.plugins.registry import split
from agemem_jax.rollout.tools.registry import of_target
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.training.configuration.run_config import RunConfig

MAIN = "agemem"  # the variant that changes nothing
LONG_TERM = "long_term_only"
ANSWER_ONLY = "answer_only"
UNTRAINED_SUMMARIES = "untrained_summaries"

# In the order of the paper's table 2, where they are registered; what it has not comes behind.
_PAPER_ORDER = (
    "no_memory", "langmem", "a_mem", "mem0", "mem0_graph", "agemem_norl", "agemem",
)  # fmt: skip
_NO_POLICY = ("random", "expert")


@dataclasses.dataclass(frozen=True)
class Request:
    """What a user asked for.

    Attributes:
      config: that every variant begins with.
      benchmarks: task sources, as `agemem-evaluate --task_source` takes them; none is the run's.
      methods: the rows of table 2.
      train_methods: those that are trained by the same RL for a row more.
      thetas: thresholds of the sweep.
      distractors: numbers of the sweep.
    """

    config: RunConfig
    benchmarks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    train_methods: tuple[str, ...] = ()
    thetas: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7, 0.8)
    distractors: tuple[int, ...] = (0, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Need:
    """Methods that are to be played in a variant.

    Attributes:
      methods: by name.
      variant: whose weights they have, and whose rules.
      changes: what the variant changes, as flags of agemem-train.
      sources: other tasks than the benchmarks, told apart by the name `of`.
      of: the study that the other tasks are for.
    """

    methods: tuple[str, ...]
    variant: str = MAIN
    changes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    of: str = ""


def every_method() -> tuple[str, ...]:
    """The registered methods in which a policy plays, the paper's first and in its order.

    Those that ask for weights after RL of their own ("mem0_rl" beside "mem0") are left out: the one
    run has not trained them. They are what `Request.train_methods` is for.
    """
    known = [
        name
        for name in METHODS.names
        if name not in _NO_POLICY and name.removesuffix("_rl") not in {*METHODS.names} - {name}
    ]
    first = [name for name in _PAPER_ORDER if name in known]
    return (*first, *(name for name in known if name not in first))


def rows(asked: Request) -> list[tuple[str, str]]:
    """The (variant, method) of the rows of table 2, in order."""
    own = [(MAIN, name) for name in asked.methods]
    return own + [(need.variant, need.methods[0]) for need in _equal_rl(asked)]


def _equal_rl(asked: Request) -> list[Need]:
    return [
        Need((f"{name}+rl",), f"{re.sub(r'[^\w.+-]', '_', name)}_rl", (f"--config.method={name}",))
        for name in asked.train_methods
    ]


def _table2(asked: Request) -> list[Need]:
    return [Need(asked.methods), *_equal_rl(asked)]


def _trained_and_not(asked: Request) -> list[Need]:
    return [Need(("agemem_norl", "agemem"))]


def _retrieval(asked: Request) -> list[Need]:
    return [Need(("agemem_norl", "agemem_norl_rag", "agemem", "agemem_rag"))]


def _components(asked: Request) -> list[Need]:
    """Figure 4: what long-term memory, RL on it, and the tools for the context add."""
    tools = of_target(asked.config.episode.tools, "LTM", "other")
    changes = (f"--config.episode.tools={tools!r}",)
    return [Need(("no_memory", "agemem")), Need(("agemem_norl", "agemem"), LONG_TERM, changes)]


def _answer_only(asked: Request) -> list[Need]:
    """Figure 5 and table 4: R_task alone, without the other components and the penalty."""
    others = [name for name in asked.config.rewards.components if name != "task"]
    if len(others) == len(asked.config.rewards.components):
        raise ValueError(
            "Without a component named task in rewards.components there is no answer-only reward "
            "to compare with."
        )
    changes = tuple(f"--config.rewards.components.{name}.weight=0.0" for name in others)
    return [Need(("agemem",)), Need(("agemem",), ANSWER_ONLY, changes)]


def _summaries(asked: Request) -> list[Need]:
    """Summaries that the policy learns to write, and such that have no advantage of their own."""
    if asked.config.grpo.credit != "broadcast":
        raise ValueError(
            f"grpo.credit is {asked.config.grpo.credit!r}, but the comparison of trained and "
            "untrained summaries is made with 'broadcast'."
        )
    changes = ("--config.grpo.credit=without_summaries",)
    return [Need(("agemem",)), Need(("agemem",), UNTRAINED_SUMMARIES, changes)]


def _thresholds(asked: Request) -> list[Need]:
    return [Need(("agemem",), *theta_variant(asked, theta)) for theta in asked.thetas]


def theta_variant(asked: Request, theta: float) -> tuple[str, tuple[str, ...]]:
    """Name and changes of the variant with this threshold; that of the configuration is `MAIN`."""
    if theta == asked.config.episode.filter_threshold:
        return MAIN, ()
    return f"theta_{theta:g}", (f"--config.episode.filter_threshold={theta!r}",)


def _distractors(asked: Request) -> list[Need]:
    """More or fewer distractors for the policies that are there, without another training."""
    sources = tuple(source for each in distractor_sources(asked).values() for source in each)
    return [Need(("agemem_norl", "agemem"), sources=sources, of="distractors")]


def distractor_sources(asked: Request) -> dict[str, list[str]]:
    """By benchmark, those that have such an option: the source with each number of distractors.

    Raises:
      ValueError: none has the option.
    """
    found = {}
    for text in asked.benchmarks or (own_source(asked.config.tasks),):
        name, options = split(text)
        known = TaskConfig(name, options).options
        option = next((each for each in ("num_distractors", "distractors") if each in known), None)
        if option is not None:
            found[text] = [
                written(name, {**options, option: number}) for number in asked.distractors
            ]
    if not found:
        raise ValueError(
            "None of the task sources has an option for the number of distractors; multihop and "
            "hotpotqa have num_distractors, the environments have distractors."
        )
    return found


def own_source(tasks: TaskConfig) -> str:
    """The tasks of a run as --task_source takes them."""
    return written(tasks.name, tasks.options)


def written(name: str, options: dict) -> str:
    """A source with options, as `plugins.registry.split` reads it."""
    return f"{name}({', '.join(f'{each}={value!r}' for each, value in options.items())})"


@dataclasses.dataclass(frozen=True)
class Study:
    """A table or figure.

    Attributes:
      title: what it shows.
      needs: what it is made of.
      always: whether it is rendered where nobody asks for studies by name, since it needs no
        training but the one run.
    """

    title: str
    needs: Callable[[Request], Sequence[Need]]
    always: bool = False


STUDIES = {
    "table2": Study("Methods on the benchmarks", _table2, always=True),
    "tests": Study("Paired tests between methods", _table2, always=True),
    "figure2": Study("Memory quality by method", _table2, always=True),
    "costs": Study("Quality and what it costs", _table2, always=True),
    "timing": Study("Quality and the time it takes", _table2, always=True),
    "table3": Study("Calls of each tool before and after RL", _trained_and_not, always=True),
    "figure3": Study("Prompt tokens with and without RAG", _retrieval, always=True),
    "figure4": Study("What each part adds", _components),
    "figure5": Study("Convergence by reward", _answer_only),
    "table4": Study("All returns against the answer alone", _answer_only),
    "table5": Study("All returns against the answer alone, other backbones", _answer_only),
    "summaries": Study("Trained and untrained summaries", _summaries),
    "theta": Study("Threshold of the context filter", _thresholds),
    "distractors": Study("Number of distractors", _distractors),
}


def find(names: Sequence[str]) -> list[str]:
    """The studies by name; none are those that need no more than one run, "all" all of them.

    Raises:
      ValueError: there is no such study.
    """
    if not names:
        return [name for name, study in STUDIES.items() if study.always]
    if "all" in names:
        return [name for name in STUDIES if name != "table5" or "table5" in names]
    for name in names:
        if name not in STUDIES:
            raise ValueError(
                f"There is no table or figure {name!r}; there are {', '.join(STUDIES)}, and all."
            )
    return list(dict.fromkeys(names))
