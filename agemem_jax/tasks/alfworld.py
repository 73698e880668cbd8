"""ALFWorld's games as tasks: what was done in earlier houses is said, then a new one is played.

Earlier episodes are told from the walkthroughs of training games of the same type. The files
are read here; the simulator is the environment's.
"""

import dataclasses
import functools
import json
import os
import pathlib
import random
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from agemem_jax.tasks.task import EnvironmentGoal, Task

GENERAL = (
    "In the house games, a thing is found by going to one place after the other and opening what "
    "is closed. A place is named with its number, as in shelf 1, and only one thing can be carried."
)

# What each type of task asks for, as a memory should hold it.
LESSONS = {
    "pick_and_place_simple": (
        "To put a thing in a place: find it, take it, go to the place, open it if it is closed, "
        "and move the thing to it."
    ),
    "look_at_obj_in_light": (
        "To look at a thing under a lamp: find it, take it, carry it to the desklamp, and use the "
        "desklamp."
    ),
    "pick_clean_then_place_in_recep": (
        "To clean a thing: take it, go to a sinkbasin, and clean it with the sinkbasin, before it "
        "is moved to its place."
    ),
    "pick_heat_then_place_in_recep": (
        "To heat a thing: take it, go to the microwave, and heat it with the microwave, which can "
        "stay closed, before it is moved to its place."
    ),
    "pick_cool_then_place_in_recep": (
        "To cool a thing: take it, go to the fridge, and cool it with the fridge, which can stay "
        "closed, before it is moved to its place."
    ),
    "pick_two_obj_and_place": (
        "To put two things in a place: take one and move it there, and only then take the other "
        "and move it to the same place."
    ),
}

ACTIONS = (
    "Actions: go to X, open X, close X, take X from Y, move X to Y, use X, clean X with Y, "
    "heat X with Y, cool X with Y, examine X, look, inventory. X and Y have numbers, as in shelf 1."
)


@dataclasses.dataclass(frozen=True)
class ALFWorldTasks:
    """All solvable games of a split, in the order of their paths.

    `valid_unseen` has 134 games in rooms that no training game has; `valid_seen` 140, `train`
    3,553. `alfworld-download`, which comes with the package alfworld, fetches them.

    Attributes:
      data_dir: the folder that holds `json_2.1.1`; by default what the environment variable
        ALFWORLD_DATA names, or `~/.cache/alfworld`, where the download puts it.
      experiences: earlier episodes of the same type that Stage 1 tells.
      distractors: earlier episodes of other types that Stage 2 tells.
      max_steps: actions until an episode ends; AgentBoard has 30, ALFWorld's authors have 50.
    """

    data_dir: str | None = None
    experiences: int = 2
    distractors: int = 2
    max_steps: int = 30

    splits: ClassVar[tuple[str, ...]] = ("train", "valid_seen", "valid_unseen")
    sorted: ClassVar[bool] = True  # a slice of them is spread

    def __post_init__(self):
        for name, least in (("experiences", 0), ("distractors", 0), ("max_steps", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(
                    f"{name} of ALFWorldTasks is {value}; it must be at least {least}."
                )

    def __call__(self, split: str) -> Sequence[Task]:
        """The tasks of a split.

        Raises:
          ValueError: there is no such split, or its games are not there.
        """
        if split not in self.splits:
            raise ValueError(
                f"ALFWorld has no split {split!r}; it must be one of {', '.join(self.splits)}."
            )
        tells = self.experiences + self.distractors > 0
        earlier = by_kind(self._folder("train")) if tells else {}
        return _Games(split, games(self._folder(split)), earlier, self)

    def _folder(self, split: str) -> str:
        root = pathlib.Path(
            self.data_dir or os.environ.get("ALFWORLD_DATA") or "~/.cache/alfworld"
        ).expanduser()
        for folder in (root / "json_2.1.1" / split, root / split):
            if folder.is_dir():
                return str(folder)
        raise ValueError(
            f"There are no ALFWorld games {root / 'json_2.1.1' / split}; fetch them by "
            f"`pip install alfworld==0.4.2` and `alfworld-download`, or let data_dir name the "
            "folder that holds json_2.1.1."
        )


@dataclasses.dataclass(frozen=True)
class Game:
    """What is told of a game.

    Attributes:
      path: of its file.
      goal: in the words of the game, such as "put a mug in desk".
      walkthrough: actions that win it.
    """

    path: str
    goal: str
    walkthrough: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The type of task, with which the name of its folder begins."""
        return kind_of(self.path)


@functools.lru_cache(maxsize=8)
def games(folder: str) -> tuple[str, ...]:
    """The files of the solvable games below a folder, sorted.

    Those with sliced things or with things inside movable ones are left out, as ALFWorld's
    own loader does.
    """
    found = sorted(str(path) for path in pathlib.Path(folder).glob("*/*/game.tw-pddl"))
    kept = tuple(
        path
        for path in found
        if kind_of(path) in LESSONS
        and "movable" not in path[len(folder) :]
        and "Sliced" not in path[len(folder) :]
        and _solvable(path)
    )
    if not kept:
        raise ValueError(
            f"{folder} holds no ALFWorld games; they are files */*/game.tw-pddl, which "
            "`alfworld-download` fetches."
        )
    return kept


@functools.lru_cache(maxsize=2)
def by_kind(folder: str) -> Mapping[str, tuple[str, ...]]:
    """The games below a folder by their type."""
    paths = games(folder)
    return {kind: tuple(each for each in paths if kind_of(each) == kind) for kind in LESSONS}


def kind_of(path: str) -> str:
    return pathlib.Path(path).parts[-3].split("-", 1)[0]


@functools.lru_cache(maxsize=256)
def read(path: str) -> Game:
    """A game's goal and walkthrough.

    Raises:
      ValueError: the file is no game.
    """
    try:
        game = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        goal = re.search(r"Your task is to: (.+?)\.?\s*\"", game["grammar"])
        return Game(path, goal.group(1), tuple(game["walkthrough"] or ()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no ALFWorld game with a task and a walkthrough; fetch it again by "
            "`alfworld-download`."
        ) from error


def told(game: Game) -> str:
    """A game as an episode that is over."""
    return f"Earlier task: {game.goal}. What was done: {'; '.join(game.walkthrough)}. It worked."


def found(game: Game) -> str:
    """Where the first thing of a walkthrough was, in a sentence; "" where it takes none."""
    for action in game.walkthrough:
        taken = re.fullmatch(r"take (\w+) \d+ from (\w+) \d+", action)
        if taken:
            return f"In an earlier house, a {taken[1]} was at a {taken[2]}."
    return ""


@dataclasses.dataclass(frozen=True, eq=False)
class _Games(Sequence):
    split: str
    paths: tuple[str, ...]
    earlier: Mapping[str, tuple[str, ...]]
    source: ALFWorldTasks

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < len(self.paths):
            raise IndexError(f"Task {index} is outside a source of {len(self.paths)} tasks.")
        path = self.paths[index]
        game, name = read(path), "/".join(pathlib.Path(path).parts[-3:-1])
        rng = random.Random(f"alfworld {self.split} {name}")
        same = [each for each in self.earlier.get(game.kind, ()) if each != path]
        far = [each for kind, paths in self.earlier.items() if kind != game.kind for each in paths]
        earlier = [read(each) for each in _sample(rng, same, self.source.experiences)]
        aside = [read(each) for each in _sample(rng, far, self.source.distractors)]
        facts = (GENERAL, LESSONS[game.kind], *(found(each) for each in earlier))
        return Task(
            task_id=f"alfworld-{self.split}-{name}",
            goal=EnvironmentGoal(
                environment="alfworld",
                options={"game_file": path},
                instruction=f"Your task is to: {game.goal}.\n{ACTIONS}",
                max_steps=self.source.max_steps,
            ),
            messages=(f"{GENERAL} {LESSONS[game.kind]}", *(told(each) for each in earlier)),
            distractors=tuple(told(each) for each in aside),
            supporting_facts=tuple(dict.fromkeys(fact for fact in facts if fact)),
            category=game.kind,
            data_set="alfworld",
        )


def _sample(rng: random.Random, population: list[str], size: int) -> list[str]:
    return rng.sample(population, min(size, len(population)))


def _solvable(path: str) -> bool:
    """Whether a game is marked as solvable: at the end of its file, behind the long texts."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 4096))
        end = file.read().decode("utf-8", errors="replace")
    mark = re.search(r'"solvable": (true|false)', end)
    if mark:
        return mark[1] == "true"
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8")).get("solvable") is True
    except (ValueError, AttributeError):
        return False
