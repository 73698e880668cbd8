"""Tasks of several sources in one, by weights."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from agemem_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The source "mixture".

    Attributes:
      sources: by name, with their options as in `"multihop(size=1000, num_distractors=3)"`.
      weights: how often each is drawn, in proportion; by default all equally.
      size: tasks to train on. Each is drawn anew, so those of a small source come often.
      seed: of the draw.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    sources: tuple[str, ...] = ("multihop",)
    weights: tuple[float, ...] = ()
    size: int = 100_000
    seed: int = 0

    def __post_init__(self):
        from agemem_jax.tasks.registry import TaskConfig  # whose table this file is in

        if not self.sources:
            raise ValueError("sources is empty; it must name at least one task source.")
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(
                f"weights has {len(self.weights)} numbers for {len(self.sources)} sources; it must "
                "have one for each, or none."
            )
        if any(weight <= 0 for weight in self.weights):
            raise ValueError(f"weights is {self.weights}; each must be above 0.")
        if self.size < 1:
            raise ValueError(f"size is {self.size}; it must be at least 1.")
        object.__setattr__(self, "_parts", tuple(TaskConfig(name) for name in self.sources))

    def __call__(self, split: str) -> "MixedTasks | InTurn":
        """To train on, a draw by weights; held out, the parts' own splits in turn."""
        if split == "train":
            parts = [part.load("train") for part in self._parts]
            weights = np.asarray(self.weights or [1.0] * len(parts))
            return MixedTasks(parts, weights / weights.sum(), self.size, self.seed)
        return InTurn([part.load(part.held_out_split) for part in self._parts])


class MixedTasks(Sequence[Task]):
    """`size` tasks; which one stands at an index follows from the seed alone."""

    def __init__(self, parts: Sequence[Sequence[Task]], weights, size: int, seed: int):
        self._parts, self._size, self._seed = parts, size, seed
        self._bounds = np.cumsum(weights)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self._size:
            raise IndexError(f"Task {index} is outside a source of {self._size} tasks.")
        digest = hashlib.blake2b(f"{self._seed} {int(index)}".encode(), digest_size=16).digest()
        first, second = (int.from_bytes(digest[i : i + 8], "big") for i in (0, 8))
        part = self._parts[int(np.searchsorted(self._bounds[:-1], first / 2**64, side="right"))]
        return part[second % len(part)]


class InTurn(Sequence[Task]):
    """All tasks of all parts: the first of each, then the second of each, and so on."""

    def __init__(self, parts: Sequence[Sequence[Task]]):
        self._order = sorted(
            (index, part) for part, tasks in enumerate(parts) for index in range(len(tasks))
        )
        self._parts = parts

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Task:
        place, part = self._order[index]
        return self._parts[part][place]
