"""The table of task sources, and which of them a run takes.

A source is a function of the split that returns a sequence of tasks, with its options as
keyword arguments, or a dataclass that is called like one. What it returns needs a length and
`[index]`, and gives the same task for the same index in every process.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agemem_jax.plugins.registry import Registry, split
from agemem_jax.tasks.task import Task

SOURCES = Registry(
    "task source",
    {
        "multihop": "agemem_jax.tasks.multihop:MultihopTasks",
        "hotpotqa": "agemem_jax.tasks.hotpotqa.source:HotpotQATasks",
        "alfworld": "agemem_jax.tasks.alfworld:ALFWorldTasks",
        "scienceworld": "agemem_jax.tasks.scienceworld:ScienceWorldTasks",
        "babyai": "agemem_jax.tasks.babyai:BabyAITasks",
        "pddl": "agemem_jax.tasks.pddl:PDDLTasks",
        "locomo": "agemem_jax.tasks.locomo:LoCoMoTasks",
        "jsonl": "agemem_jax.tasks.jsonl:JsonLinesTasks",
        "hf": "agemem_jax.tasks.hf_dataset:HFDatasetTasks",
        "mixture": "agemem_jax.tasks.mixture:Mixture",
        "environment": "agemem_jax.tasks.environment:EnvironmentTasks",
    },
)


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Which tasks are played.

    Attributes:
      source: a source by name, as `package.module:attribute`, or itself.
      options: of the source.
      eval_size: held-out tasks that are played at most: the first of them or, of a source whose
        tasks are `sorted`, as many evenly spread ones.
      eval_split: held-out tasks are of this split; None is the last of `splits` of the source,
        or "test" where it does not say which it has.
    """

    source: str | Callable[..., Sequence[Task]] = "multihop"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    eval_size: int = 200
    eval_split: str | None = None

    def __post_init__(self):
        name, options = self.source, {}
        try:
            if isinstance(name, str):
                name, options = split(name)
            options = SOURCES.complete(name, {**options, **self.options}, "tasks.options")
        except ValueError as error:
            told = str(error)
            raise ValueError(
                told if "tasks.options" in told else f"tasks.source: {told}"
            ) from error
        object.__setattr__(self, "source", name)
        object.__setattr__(self, "options", options)
        if self.eval_size < 1:
            raise ValueError(f"tasks.eval_size is {self.eval_size}; it must be at least 1.")
        splits = self.splits
        if self.eval_split is not None and splits and self.eval_split not in splits:
            raise ValueError(
                f"tasks.eval_split is {self.eval_split!r}; the splits of {self.name} are "
                f"{', '.join(splits)}."
            )

    @property
    def name(self) -> str:
        """Of the source, as tables show it."""
        return self.source if isinstance(self.source, str) else self.source.__name__

    @property
    def splits(self) -> tuple[str, ...]:
        """Of the source, the held-out one last; none where it does not say."""
        return tuple(getattr(SOURCES.find(self.source), "splits", ()))

    def held_out(self, tasks: Sequence[Task]) -> list[Task]:
        """Those of the tasks of a split that are played."""
        return [tasks[place] for place in self.held_out_places(len(tasks))]

    def held_out_places(self, size: int) -> list[int]:
        """Which of the `size` tasks of a split are played."""
        count = min(self.eval_size, size)
        step = size / count if self.sorted else 1
        return [int(index * step) for index in range(count)]

    @property
    def sorted(self) -> bool:
        """Whether the source has alike tasks side by side."""
        return getattr(SOURCES.find(self.source), "sorted", False)

    @property
    def held_out_split(self) -> str:
        """The split that is evaluated."""
        return self.eval_split or (self.splits[-1] if self.splits else "test")

    def load(self, of_split: str) -> Sequence[Task]:
        """The tasks of a split.

        Raises:
          ValueError: there are none; or what the source raises.
        """
        tasks = SOURCES.build(self.source, self.options, "tasks.options")(of_split)
        if not hasattr(tasks, "__len__") or not hasattr(tasks, "__getitem__"):
            raise ValueError(
                f"The task source {self.name} gave a {type(tasks).__name__}; it must give a list "
                "of tasks, or something else with a length and [index]."
            )
        if not len(tasks):
            raise ValueError(f"The task source {self.name} has no task in its split {of_split!r}.")
        return tasks
