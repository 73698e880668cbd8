"""BabyAI as tasks: AgentBoard's 112 evaluated episodes, and others of its levels to train on.

A level and a seed make an episode, so nothing has to be downloaded. The experience of an
episode is told from demonstrations in other episodes of its level; for these, and only when a
task with experience or distractors is asked for, the simulator is imported and played. An
episode that is played to be told has a seed that no task has.
"""

import dataclasses
import functools
import json
import pathlib
import random
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from agemem_jax.tasks.task import EnvironmentGoal, Task

LEVELS = tuple(
    f"BabyAI-{name}-v0"
    for name in (
        "GoToRedBallGrey",
        "GoToRedBall",
        "GoToRedBallNoDists",
        "GoToObjS6",
        "GoToLocalS8N7",
        "GoToObjMazeS7",
        "GoToImpUnlock",
        "GoToSeqS5R2",
        "GoToRedBlueBall",
        "GoToDoor",
        "GoToObjDoor",
        "Open",
        "OpenRedDoor",
        "OpenDoorLoc",
        "OpenRedBlueDoorsDebug",
        "OpenDoorsOrderN4Debug",
        "Pickup",
        "UnblockPickup",
        "PickupLoc",
        "PickupDistDebug",
        "PickupAbove",
        "Unlock",
        "UnlockLocalDist",
        "UnlockPickupDist",
        "BlockedUnlockPickup",
        "UnlockToUnlock",
        "FindObjS7",
        "KeyCorridorS6R3",
    )
)
ONE_ROOM = tuple(  # levels that are over soon, so quick to play and short to tell
    f"BabyAI-{name}-v0"
    for name in (
        "GoToRedBallGrey",
        "GoToRedBall",
        "GoToRedBallNoDists",
        "GoToObjS6",
        "GoToLocalS8N7",
        "GoToRedBlueBall",
        "GoToDoor",
        "GoToObjDoor",
        "OpenRedDoor",
        "OpenDoorLoc",
        "PickupLoc",
        "PickupDistDebug",
    )
)
TEST_SEEDS = (1234, 1235, 1236, 1237)
HARD_SEEDS = {  # the evaluated episodes that AgentBoard calls hard; the others are easy
    "BabyAI-GoToObjMazeS7-v0": (1237,),
    "BabyAI-GoToImpUnlock-v0": (1234, 1236),
    "BabyAI-GoToSeqS5R2-v0": (1236,),
    "BabyAI-OpenRedBlueDoorsDebug-v0": TEST_SEEDS,
    "BabyAI-OpenDoorsOrderN4Debug-v0": (1234, 1236, 1237),
    "BabyAI-Unlock-v0": (1235,),
    "BabyAI-BlockedUnlockPickup-v0": TEST_SEEDS,
    "BabyAI-UnlockToUnlock-v0": TEST_SEEDS,
    "BabyAI-FindObjS7-v0": (1234, 1235),
    "BabyAI-KeyCorridorS6R3-v0": TEST_SEEDS,
}
FILE = "babyai_test.jsonl"
KNOWN = (
    "In BabyAI you walk through rooms and see only what is before you. Turn right until you see "
    "what you look for, then go to it or pick it up. Toggle opens a closed door before you; a "
    "locked one needs the key of its colour."
)

_TOLD_SEEDS = range(5000, 5008)
_FIRST_TRAIN_SEED = 10_000
_VALIDATION_SEED = 1000  # in place of a seed of the train split
_SHORT = 16  # actions; longer demonstrations are told where no other is among the first few


@dataclasses.dataclass(frozen=True)
class BabyAITasks:
    """Episodes of BabyAI, with what was done in others of their levels.

    Attributes:
      data_dir: folder with AgentBoard's `babyai_test.jsonl`, for its subgoal patterns: the
        progress of the test split. None: progress is 0 until a goal is reached.
      levels: to train on, as minigrid names them; none are all 28 of AgentBoard.
      size: tasks of the train split, and of the validation split, which go through the levels in
        turn.
      seed: of the train split; seeds share no episode with each other nor with validation.
      experiences: past episodes of the level that Stage 1 tells.
      distractors: past episodes of other levels (`ONE_ROOM`) that Stage 2 tells.
      max_steps: actions until an episode ends.
      rule: when a goal counts as reached; see `BabyAI.rule`.
    """

    data_dir: str | None = None
    levels: tuple[str, ...] = ()
    size: int = 1000
    seed: int = 0
    experiences: int = 2
    distractors: int = 2
    max_steps: int = 30
    rule: Literal["agentboard", "level"] = "agentboard"

    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    sorted: ClassVar[bool] = True  # a slice of them is spread

    def __post_init__(self):
        for level in self.levels:
            if not re.fullmatch(r"BabyAI-\w+-v\d+", level):
                raise ValueError(
                    f"babyai.levels has {level!r}; a level is named as in {LEVELS[0]}."
                )
        if self.size < 1 or self.max_steps < 1:
            raise ValueError(
                f"babyai.size ({self.size}) and babyai.max_steps ({self.max_steps}) must be at "
                "least 1."
            )
        if not 0 <= self.seed < _VALIDATION_SEED or self.size > _SEEDS_EACH:
            raise ValueError(
                f"babyai.seed ({self.seed}) must lie in [0, 999], and babyai.size ({self.size}) "
                f"be at most {_SEEDS_EACH}."
            )
        for name in ("experiences", "distractors"):
            most = len(_TOLD_SEEDS)
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"babyai.{name} is {getattr(self, name)}; it must lie in [0, {most}]."
                )
        if self.rule not in ("agentboard", "level"):
            raise ValueError(f"babyai.rule is {self.rule!r}; it must be agentboard or level.")

    def __call__(self, split: str) -> Sequence[Task]:
        """The tasks of a split.

        Raises:
          ValueError: there is no such split, or no file of AgentBoard's in `data_dir`.
        """
        if split not in self.splits:
            raise ValueError(f"The babyai split must be train, validation or test, not {split!r}.")
        if split != "test":
            return _Episodes(self, split, self.size)
        patterns = () if self.data_dir is None else _subgoals(pathlib.Path(self.data_dir) / FILE)
        return _Episodes(self, split, len(LEVELS) * len(TEST_SEEDS), patterns)


_SEEDS_EACH = 1_000_000


def difficulty(level: str, seed: int) -> str:
    """AgentBoard's "easy" or "hard", of an evaluated episode."""
    return "hard" if seed in HARD_SEEDS.get(level, ()) else "easy"


def category(level: str) -> str:
    """The name of a level without what all levels have."""
    return level.removeprefix("BabyAI-").rpartition("-v")[0]


@dataclasses.dataclass(frozen=True)
class _Episodes(Sequence):
    """The tasks of one split, each made when it is asked for."""

    source: BabyAITasks
    split: str
    size: int
    patterns: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Task:
        """The task at an index.

        Raises:
          IndexError: it lies outside.
          ImportError: minigrid is missing, which tells what was done in other episodes.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"Task {index} is outside a split of {self.size} tasks.")
        level, seed = self._episode(index)
        options: dict[str, Any] = {"level": level, "rule": self.source.rule}
        if self.patterns:
            options["subgoals"] = list(self.patterns[index])
        rng = random.Random(f"babyai {self.split} {level} {seed}")
        past = _past(level, self.source.experiences, rng, self.source.rule)
        others = [other for other in ONE_ROOM if other != level]
        elsewhere = _elsewhere(others, self.source.distractors, rng, self.source.rule)
        return Task(
            task_id=f"babyai-{self.split}-{category(level)}-{seed}",
            goal=EnvironmentGoal(
                environment="babyai",
                options=options,
                instruction=f"BabyAI, level {category(level)}.",
                seed=seed,
                max_steps=self.source.max_steps,
            ),
            messages=(KNOWN, *(episode.message for episode in past)),
            distractors=tuple(episode.message for episode in elsewhere),
            supporting_facts=tuple(dict.fromkeys(episode.lesson for episode in past)),
            category=category(level),
            data_set="babyai",
        )

    def _episode(self, index: int) -> tuple[str, int]:
        """The level and the seed of a task."""
        if self.split == "test":
            return LEVELS[index // len(TEST_SEEDS)], TEST_SEEDS[index % len(TEST_SEEDS)]
        levels = self.source.levels or LEVELS
        block = self.source.seed if self.split == "train" else _VALIDATION_SEED
        first = _FIRST_TRAIN_SEED + block * _SEEDS_EACH
        return levels[index % len(levels)], first + index // len(levels)


@dataclasses.dataclass(frozen=True)
class _Past:
    """An episode that was played well."""

    level: str
    mission: str
    actions: tuple[str, ...]

    @property
    def message(self) -> str:
        done = "; ".join(self.actions)
        return f"Earlier in {category(self.level)}: {self.mission}. Done: {done}. It worked."

    @property
    def lesson(self) -> str:
        return f"In {category(self.level)}, to {self.mission}: {'; '.join(self.actions)}."


def _past(level: str, count: int, rng: random.Random, rule: str) -> list[_Past]:
    """Different episodes of a level; short ones, if there are such among the first few.

    Fewer than `count` where the bot that plays them finds fewer ways to the goal.
    """
    found: list[_Past] = []
    for looked_at, seed in enumerate(rng.sample(_TOLD_SEEDS, len(_TOLD_SEEDS))):
        short = sum(len(each.actions) <= _SHORT for each in found)
        if short >= count or (len(found) >= count and looked_at >= count + 2):
            break
        episode = _played(level, seed, rule)
        found += [] if episode is None else [episode]
    short_first = sorted(found, key=lambda each: max(len(each.actions), _SHORT))
    return short_first[:count]


def _elsewhere(levels: Sequence[str], count: int, rng: random.Random, rule: str) -> list[_Past]:
    """One episode of each of some levels."""
    found: list[_Past] = []
    for level in rng.sample(levels, len(levels)):
        if len(found) < count:
            found += _past(level, 1, rng, rule)
    return found


@functools.lru_cache(maxsize=4096)
def _played(level: str, seed: int, rule: str) -> _Past | None:
    """How an episode is played well; None where that is not known."""
    from agemem_jax.environments.babyai import BabyAI  # brings the simulator

    game = BabyAI(level=level, rule=rule)
    game.reset(seed)
    try:
        return _Past(level, game.mission, tuple(game.demonstration()))
    except LookupError:
        return None


def _subgoals(path: pathlib.Path) -> tuple[tuple[str, ...], ...]:
    """AgentBoard's patterns of the evaluated episodes, in their order.

    Raises:
      ValueError: the file is missing, or holds other episodes.
    """
    if not path.is_file():
        raise ValueError(
            f"babyai.data_dir has no {FILE}; it is babyai/test.jsonl of the data set "
            "hkust-nlp/agentboard on Hugging Face (data.tar.gz)."
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    levels = [row.get("additional_info", {}).get("subtask") for row in rows]
    if levels != [level for level in LEVELS for _ in TEST_SEEDS]:
        raise ValueError(
            f"{path} must hold AgentBoard's {len(LEVELS)} levels with {len(TEST_SEEDS)} episodes "
            "each, in AgentBoard's order."
        )
    return tuple(tuple(row["subgoals"]) for row in rows)
