"""ScienceWorld's 30 tasks: what is known of doing them is said, then one variation is played.

Which variations there are is written down here, so that no simulator runs for a list of tasks;
what was learned by doing them is told in words instead of episodes, for the same reason.
"""

import dataclasses
import itertools
import json
import pathlib
import random
from collections.abc import Sequence
from typing import Any, ClassVar

from agemem_jax.tasks.scienceworld_lessons import FAMILIES, GENERAL, KINDS
from agemem_jax.tasks.task import EnvironmentGoal, Task

ACTIONS = (
    "Actions: look around, inventory, go to ROOM, focus on X, pick up X, put down X, move X to Y, "
    "open X, close X, activate X, deactivate X, use X on Y, pour X in Y, mix X, connect X to Y, "
    "read X, examine X, wait. `objects` lists what can be named. A number answers a question "
    "which of several was meant."
)

# With `openContainers`, which AgentBoard has, the bees leave their hive before there are
# flowers, and the simulator's own solutions often bear no fruit.
_WITH_BEES = (
    "grow-fruit",
    "mendelian-genetics-known-plant",
    "mendelian-genetics-unknown-plant",
)
_CLOSED = ("selfWateringFlowerPots", "openDoors", "noElectricalAction")


@dataclasses.dataclass(frozen=True)
class ScienceWorldTasks:
    """Variations of the 30 tasks, which the simulator divides into train, dev and test.

    AgentBoard plays 90 episodes of its own choice, with goals and subgoals of its own, a list
    that is not part of this library. With `data_dir`, `test` is that list, in its order, and
    `train` and `dev` have none of its variations. Without it, `test` is ours: three of the test
    variations of each task, spread evenly, which is 90 episodes, too, but not the same: their
    results cannot be compared with AgentBoard's.

    Attributes:
      data_dir: a folder with AgentBoard's `test.jsonl`, in it or in its folder `scienceworld`
        (`data.tar.gz` of the Hugging Face data set hkust-nlp/agentboard has it).
      per_task: variations of each task in `dev` and in our `test`; 0 are all of them.
      experiences: lessons of the task that Stage 1 tells, at most two.
      distractors: lessons of other kinds of tasks that Stage 2 tells.
      max_steps: actions until an episode ends; AgentBoard has 30. The simulator's own
        solutions are often longer, for they look at every step.
    """

    data_dir: str | None = None
    per_task: int = 3
    experiences: int = 2
    distractors: int = 2
    max_steps: int = 30

    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")
    sorted: ClassVar[bool] = True  # a slice of them is spread

    def __post_init__(self):
        bounds = {"per_task": (0, None), "max_steps": (1, None)}
        bounds |= {"experiences": (0, 2), "distractors": (0, 2 * len(FAMILIES))}
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                end = f"lie in [{least}, {most}]" if most is not None else f"be at least {least}"
                raise ValueError(f"{name} of ScienceWorldTasks is {value}; it must {end}.")

    def __call__(self, split: str) -> Sequence[Task]:
        """The tasks of a split.

        Raises:
          ValueError: there is no such split, or `data_dir` has no list of episodes.
        """
        if split not in self.splits:
            raise ValueError(
                f"ScienceWorld has no split {split!r}; it must be one of {', '.join(self.splits)}."
            )
        listed = agentboard(self.data_dir) if self.data_dir else ()
        if split == "test" and listed:
            return _Variations(split, listed, self)
        taken = {(episode.kind, episode.variation) for episode in listed}
        number = 0 if split == "train" else self.per_task
        columns = [
            [Episode(kind, v) for v in variations(kind, split, number) if (kind, v) not in taken]
            for kind in KINDS
        ]
        # One of each task after the other, so that a part of the list has all of them.
        rows = itertools.zip_longest(*columns)
        return _Variations(split, tuple(each for row in rows for each in row if each), self)


@dataclasses.dataclass(frozen=True)
class Episode:
    """A variation of a task; `goal` and `subgoals` where they are AgentBoard's."""

    kind: str
    variation: int
    goal: str = ""
    subgoals: tuple[str, ...] = ()


def variations(kind: str, split: str, number: int = 0) -> list[int]:
    """The variations of a task in a split; `number` of them, spread evenly, or all for 0."""
    size = KINDS[kind].variations
    quarter = size // 4
    cuts = {"train": (0, 2 * quarter), "dev": (2 * quarter, 3 * quarter)}
    first, end = cuts.get(split, (3 * quarter, size))
    if not 0 < number < end - first:
        return list(range(first, end))
    return [first + (end - first) * i // number for i in range(number)]


def agentboard(data_dir: str) -> tuple[Episode, ...]:
    """The episodes of AgentBoard's list.

    Raises:
      ValueError: there is none, or a line of it is something else.
    """
    root = pathlib.Path(data_dir).expanduser()
    paths = [
        path for path in (root / "test.jsonl", root / "scienceworld/test.jsonl") if path.exists()
    ]
    if not paths:
        raise ValueError(
            f"There is no {root / 'test.jsonl'}; it comes with the Hugging Face data set "
            "hkust-nlp/agentboard, as scienceworld/test.jsonl of its data.tar.gz."
        )
    episodes = []
    for number, line in enumerate(paths[0].read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            episodes.append(_episode(line, f"{paths[0]}, line {number}"))
    return tuple(episodes)


def _episode(line: str, where: str) -> Episode:
    try:
        row: dict[str, Any] = json.loads(line)
        more = row["additional_info"]
        kind, variation = more["env_name"], more["var"]
        if kind in KINDS and 0 <= variation < KINDS[kind].variations:
            return Episode(kind, int(variation), row["goal"], tuple(row["subgoals"]))
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{where}, is no episode of ScienceWorld; a line has goal, subgoals, and additional_info "
        "with env_name and var."
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Variations(Sequence):
    split: str
    episodes: tuple[Episode, ...]
    source: ScienceWorldTasks

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self.episodes):
            raise IndexError(f"Task {index} is outside a source of {len(self.episodes)} tasks.")
        episode = self.episodes[index]
        kind = KINDS[episode.kind]
        options: dict[str, Any] = {"task": episode.kind, "variation": episode.variation}
        if episode.subgoals:
            options |= {"goal": episode.goal, "subgoals": list(episode.subgoals)}
        elif episode.kind in _WITH_BEES:
            options["simplifications"] = list(_CLOSED)
        lessons = (FAMILIES[kind.family], f"To {kind.aim}: {kind.lesson}")
        lessons = lessons[: self.source.experiences]
        rng = random.Random(f"scienceworld {self.split} {episode.kind} {episode.variation}")
        others = [text for family, text in FAMILIES.items() if family != kind.family]
        others += [f"To {k.aim}: {k.lesson}" for k in KINDS.values() if k.family != kind.family]
        return Task(
            task_id=f"scienceworld-{self.split}-{episode.kind}-{episode.variation}",
            goal=EnvironmentGoal(
                environment="scienceworld",
                options=options,
                instruction=f"Your task is to {kind.aim}.\n{ACTIONS}",
                seed=episode.variation,
                max_steps=self.source.max_steps,
            ),
            messages=(GENERAL, *(f"From earlier experiments: {each}" for each in lessons)),
            distractors=tuple(
                f"From other experiments: {each}"
                for each in rng.sample(others, self.source.distractors)
            ),
            supporting_facts=(GENERAL, *lessons),
            category=episode.kind,
            data_set="scienceworld",
        )
