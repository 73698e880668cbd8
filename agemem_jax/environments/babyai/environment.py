"""A level of BabyAI as AgentBoard plays it: seen in words, played by actions in words.

The steps of an action end early where one changes nothing that is seen. When the episode is
over is AgentBoard's rule or the level's own (option `rule`). Differs from AgentBoard in the
numbers of things where some cannot be reached (`moves.py`), in progress 1 for every goal
that is reached, and in that an action that changes nothing counts as valid where it can be done.
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from agemem_jax.environments.babyai import moves, simulator
from agemem_jax.environments.babyai.moves import CHECK, Move, normalised
from agemem_jax.environments.babyai.sight import View, describe, look
from agemem_jax.environments.protocol import Observation, Outcome

NO_CHANGE = "No change in state."
_COMPLETED = "\n The task is completed."
_FAILED = "\n The task has failed."
HOW_TO_ACT = (
    "Actions: turn left, turn right, move forward, go to <object> <id>, pickup <object> <id>, "
    "drop, toggle, go through <door> <id>, toggle and go through <door> <id>, "
    f"{CHECK}. An object and its id are written as they are seen, as in: go to red ball 1"
)


@dataclasses.dataclass
class BabyAI:
    """One episode of a level.

    Attributes:
      level: as minigrid names it, or as AgentBoard did.
      subgoals: AgentBoard's patterns of what is seen on the way to the goal; "**" stands for any
        words within a sentence. Progress is the share that was seen, at most one new pattern
        an action. Without patterns it is 0 until the goal is reached.
      rule: when the goal counts as reached. "level": as soon as the level gives its reward,
        also in the midst of an action; a broken order ("open the red door, then ...") loses.
        "agentboard": when the level says at the end of an action that it is over, and more than
        half of the patterns were seen; or when all were. What was reached in passing does not
        count, and nothing loses but running out of steps.
    """

    level: str = "BabyAI-GoToRedBallGrey-v0"
    subgoals: tuple[str, ...] = ()
    rule: Literal["agentboard", "level"] = "agentboard"

    def __post_init__(self):
        self.world: Any = None
        self._image: np.ndarray | None = None
        self.view: View | None = None
        self._known_moves: dict[str, Move] | None = None
        self._unseen: list[str] = []
        self._last: Outcome | None = None

    def reset(self, seed: int) -> Observation:
        """The first view, and the goal.

        Raises:
          ImportError: minigrid is not installed.
          ValueError: it has no such level.
        """
        self.world, self._image = simulator.world(self.level, seed)
        self._unseen = list(self.subgoals)
        self._last = None
        self._look()
        return Observation(describe(self.view), f"Goal: {self.mission}. {HOW_TO_ACT}")

    @property
    def mission(self) -> str:
        """The goal in the level's words, once it is reset."""
        return self.world.mission

    def actions(self) -> list[str]:
        """The actions that can be done now."""
        return [text for text, move in self.moves().items() if move.steps is not None]

    def step(self, action: str) -> Outcome:
        """What is seen after an action; once done, the last outcome again."""
        if self._last is not None and self._last.done:
            return self._last
        text = normalised(action)
        move = self.moves().get(text)
        if text == CHECK:
            return self._told("You can take the following actions: " + ", ".join(self.actions()))
        if not text:
            return self._told(NO_CHANGE, valid=False)
        if move is None:
            return self._told(moves.NOT_UNDERSTOOD, valid=False)
        if move.steps is None:
            return self._told(move.refusal, valid=False)
        if not move.steps:
            return self._told(NO_CHANGE)
        return self._do(move.steps)

    def demonstration(self) -> list[str]:
        """Actions that reach the goal from here, as few as are found.

        Raises:
          LookupError: minigrid's bot does not find any.
        """
        from agemem_jax.environments.babyai import expert

        return expert.demonstration(self)

    def moves(self) -> dict[str, Move]:
        if self._known_moves is None:
            self._known_moves = moves.moves(self.view)
        return self._known_moves

    def _look(self):
        self.view = look(self.world, self._image)
        self._known_moves = None

    @property
    def _progress(self) -> float:
        return 1 - len(self._unseen) / len(self.subgoals) if self.subgoals else 0.0

    def _told(self, text: str, valid: bool = True) -> Outcome:
        """An action after which the world is as it was."""
        return Outcome(text, progress=self._progress, valid=valid)

    def _do(self, steps: tuple[int, ...]) -> Outcome:
        for step in steps:
            seen, reward, over, _, _ = self.world.step(step)
            changed = not np.array_equal(seen["image"], self._image)
            self._image = seen["image"]
            if not changed or (over and self.rule == "level"):
                break
        self._look()
        text = describe(self.view)
        solved = over and reward > 0
        if over:
            text += _COMPLETED if solved or self.rule == "agentboard" else _FAILED
        match = next((pattern for pattern in self._unseen if matches(pattern, text)), None)
        if match is not None:
            self._unseen.remove(match)

        if self.rule == "agentboard":
            if self.subgoals:
                solved = over and self._progress > 0.5
            if self._progress == 1 and not solved:
                solved, text = True, text + _COMPLETED
            over = solved
        self._last = Outcome(text, 1.0 if solved else self._progress, over, solved)
        return self._last


def matches(pattern: str, text: str) -> bool:
    """Whether one sentence of the text holds all parts of a pattern, in any order."""
    gap = "**" if "**" in pattern else "*"
    parts = [part.strip(".") for part in pattern.strip().split(gap)]
    return any(all(part in sentence for part in parts) for sentence in text.split("."))
