"""Tasks for an environment of a user's own: episodes that differ by their seed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agemem_jax.plugins.registry import split
from agemem_jax.tasks.task import EnvironmentGoal, Task

_HELD_OUT = 1_000_000_000  # where the seeds of held-out episodes begin


@dataclasses.dataclass(frozen=True)
class EnvironmentTasks:
    """The source "environment".

    Attributes:
      environment: by name or `package.module:attribute`; it may carry its options, as in
        `"my_module:Guess(colours=3)"`.
      instruction: what is to be done and how actions are written; the environment's own comes
        behind it.
      messages: of Stage 1, such as what is known of the environment.
      distractors: of Stage 2.
      max_steps: actions until an episode ends.
      size: episodes to train on; their seeds are 0, 1, 2, and so on.
      test_size: held-out episodes, with seeds of their own.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    environment: str = ""
    instruction: str = ""
    messages: tuple[str, ...] = ()
    distractors: tuple[str, ...] = ()
    max_steps: int = 30
    size: int = 100_000
    test_size: int = 1000

    def __post_init__(self):
        for name in ("max_steps", "size", "test_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    def __call__(self, of_split: str) -> "Episodes":
        from agemem_jax.environments.registry import ENVIRONMENTS

        if not self.environment:
            raise ValueError(
                "tasks.options.environment is empty; it must name an environment, one of "
                f"{', '.join(ENVIRONMENTS.names)} or your own as package.module:attribute."
            )
        name, options = split(self.environment)
        ENVIRONMENTS.complete(name, options, "tasks.options.environment")
        held_out = of_split != "train"
        size = self.test_size if held_out else self.size
        return Episodes(self, name, options, size, _HELD_OUT if held_out else 0)


class Episodes(Sequence[Task]):
    """One task for each seed."""

    def __init__(
        self, config: EnvironmentTasks, name: str, options: Mapping[str, Any], size: int, first: int
    ):
        self._config, self._name, self._options = config, name, dict(options)
        self._size, self._first = size, first

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self._size:
            raise IndexError(f"Task {index} is outside a source of {self._size} tasks.")
        config, seed = self._config, self._first + int(index)
        goal = EnvironmentGoal(
            self._name, self._options, config.instruction, seed, config.max_steps
        )
        return Task(
            task_id=f"{self._name}-{seed}",
            goal=goal,
            messages=config.messages,
            distractors=config.distractors,
            category=self._name,
            data_set=self._name,
        )
