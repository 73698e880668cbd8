"""A level of BabyAI as AgentBoard plays it: seen in words, played by actions in words.

Differs from AgentBoard in what ends an episode: the level's own rule decides (AgentBoard also
ends one when every subgoal pattern was seen, and goes on after a failure while few were). An
action stops when it ends the episode or a step forward is barred.
"""

import dataclasses
from typing import Any

from agemem_jax.environments.babyai import simulator
from agemem_jax.environments.babyai.moves import CHECK, NOT_UNDERSTOOD, Move, moves, normalised
from agemem_jax.environments.babyai.sight import View, describe, look
from agemem_jax.environments.protocol import Observation, Outcome

NO_CHANGE = "No change in state."
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
    """

    level: str = "BabyAI-GoToRedBallGrey-v0"
    subgoals: tuple[str, ...] = ()

    def __post_init__(self):
        self._world: Any = None
        self._view: View | None = None
        self._moves: dict[str, Move] | None = None
        self._unseen: list[str] = []
        self._last: Outcome | None = None

    def reset(self, seed: int) -> Observation:
        """The first view, and the goal.

        Raises:
          ImportError: minigrid is not installed.
          ValueError: it has no such level.
        """
        self._world = simulator.world(self.level, seed)
        self._unseen = list(self.subgoals)
        self._last = None
        self._look()
        return Observation(describe(self._view), f"Goal: {self._world.mission}. {HOW_TO_ACT}")

    def actions(self) -> list[str]:
        """The actions that can be done now."""
        return [text for text, move in self._options().items() if move.steps is not None]

    def step(self, action: str) -> Outcome:
        """What is seen after an action; once done, the last outcome again."""
        if self._last is not None and self._last.done:
            return self._last
        text = normalised(action)
        move = self._options().get(text)
        if text == CHECK:
            return self._told("You can take the following actions: " + ", ".join(self.actions()))
        if not text:
            return self._told(NO_CHANGE, valid=False)
        if move is None:
            return self._told(NOT_UNDERSTOOD, valid=False)
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

    def _options(self) -> dict[str, Move]:
        if self._moves is None:
            self._moves = moves(self._view)
        return self._moves

    def _look(self):
        self._view = look(self._world)
        self._moves = None

    @property
    def _progress(self) -> float:
        return 1 - len(self._unseen) / len(self.subgoals) if self.subgoals else 0.0

    def _told(self, text: str, valid: bool = True) -> Outcome:
        """An action after which the world is as it was."""
        return Outcome(text, progress=self._progress, valid=valid)

    def _do(self, steps: tuple[int, ...]) -> Outcome:
        for step in steps:
            before = tuple(self._world.agent_pos)
            _, reward, done, _, _ = self._world.step(step)
            barred = step == simulator.FORWARD and tuple(self._world.agent_pos) == before
            if done or barred:
                break
        self._look()
        text = describe(self._view)
        won = done and reward > 0
        if done:
            text += "\n The task is completed." if won else "\n The task has failed."
        seen = next((pattern for pattern in self._unseen if matches(pattern, text)), None)
        if seen is not None:
            self._unseen.remove(seen)
        self._last = Outcome(text, 1.0 if won else self._progress, done, won)
        return self._last


def matches(pattern: str, text: str) -> bool:
    """Whether one sentence of the text holds all parts of a pattern, in any order."""
    gap = "**" if "**" in pattern else "*"
    parts = [part.strip(".") for part in pattern.strip().split(gap)]
    return any(all(part in sentence for part in parts) for sentence in text.split("."))
