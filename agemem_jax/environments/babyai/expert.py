"""Good play of BabyAI: what minigrid's bot does, said in few actions.

The steps of the bot come down to errands: pick this up, open that door, stand before this ball.
Between errands the agent goes where it likes, so "go to red ball 1" takes the place of steps.
A thing out of sight is looked for by turning right, where that shows it: what is seen then
tells what to do, which is what one learns by watching.
"""

import collections
import copy
import dataclasses
from typing import Any

from agemem_jax.environments.babyai.moves import Move, Pose, front, moved, moves
from agemem_jax.environments.babyai.sight import Position, look
from agemem_jax.environments.babyai.simulator import (
    DROP,
    FORWARD,
    HEADINGS,
    LEFT,
    PICKUP,
    RIGHT,
    TOGGLE,
    bot_steps,
)

_FACE = -1  # an errand without a step of its own
_WORDS = {FORWARD: "move forward", LEFT: "turn left", RIGHT: "turn right", DROP: "drop"}
_LOOK_ROUND = ("turn left", "turn right")


@dataclasses.dataclass(frozen=True)
class Errand:
    """Something to be done at a place.

    Attributes:
      step: of minigrid: `PICKUP`, `DROP`, `TOGGLE`, or `_FACE` for standing before it.
      place: that one faces.
      through: whether one goes on through the door that was toggled.
    """

    step: int
    place: Position
    through: bool = False


def demonstration(game: Any) -> list[str]:
    """Actions that reach the goal of a `BabyAI` from where it is; it stays as it is.

    Raises:
      LookupError: the bot does not reach it.
    """
    steps = bot_steps(copy.deepcopy(game.world))
    errands = _errands(copy.deepcopy(game.world), steps)
    for play in (_Short(copy.deepcopy(game), errands), _Literal(copy.deepcopy(game), steps)):
        actions = play.actions()
        if actions:
            return actions
    raise LookupError(f"The way of minigrid's bot does not reach the goal of {game.level}.")


def _errands(world: Any, steps: list[int]) -> list[Errand]:
    """What the steps come down to, found by playing them."""
    errands = []
    for i, step in enumerate(steps):
        before = _parts_done(world)
        place = front(_pose(world))
        world.step(step)
        if step in (PICKUP, DROP, TOGGLE):
            errands.append(Errand(step, place, steps[i + 1 : i + 2] == [FORWARD]))
        elif before != _parts_done(world) or i == len(steps) - 1:
            errands.append(Errand(_FACE, front(_pose(world))))
    return errands


def _parts_done(world: Any) -> tuple[bool, bool]:
    """Of a mission in two parts, which are done."""
    parts = [getattr(world.instrs, name, None) for name in ("a_done", "b_done")]
    return parts[0] == "success", parts[1] == "success"


def _pose(world: Any) -> Pose:
    x, y = world.agent_pos
    return (int(x), int(y)), int(world.agent_dir)


@dataclasses.dataclass
class _Player:
    """Plays a copy of a game and notes what it does."""

    game: Any

    def __post_init__(self):
        self.played: list[str] = []
        self.won = False

    def play(self, action: str) -> bool:
        """Whether the action could be done and the episode goes on."""
        outcome = self.game.step(action)
        self.played.append(action)
        self.won = outcome.won
        return outcome.valid and not outcome.done

    def end(self) -> list[str] | None:
        """What was played, or None where it does not reach the goal."""
        if not self.won:  # where the goal is reached, but only shows after one more action
            all(self.play(action) for action in _LOOK_ROUND)
        return self.played if self.won else None


@dataclasses.dataclass
class _Literal(_Player):
    """The steps as they are, each as one action."""

    steps: list[int]

    def actions(self) -> list[str] | None:
        """The actions, or None where they do not reach the goal."""
        for step in self.steps:
            if not self.play(self._words(step)):
                break
        return self.end()

    def _words(self, step: int) -> str:
        if step != PICKUP:
            return _WORDS.get(step, "toggle")
        ahead = [thing.label for thing in self.game.view.things if thing.in_front]
        return f"pickup {ahead[0]}" if ahead else "pickup"


@dataclasses.dataclass
class _Short(_Player):
    """The errands in order, in few actions."""

    errands: list[Errand]
    most: int = 200

    def actions(self) -> list[str] | None:
        """The actions, or None where they do not reach the goal."""
        for errand in self.errands:
            if not self._run(errand):
                break
        return self.end()

    def _run(self, errand: Errand) -> bool:
        """Whether the errand is done and the episode goes on."""
        distances = self._distances(errand.place)
        in_vain = set()  # what was tried at which pose
        while not self._done(errand):
            pose = _pose(self.game.world)
            action = self._direct(errand, self.game.moves())
            if action is None or (pose, action) in in_vain:
                action = self._turn(errand, in_vain) or self._nearer(distances)
            if action is None or (pose, action) in in_vain or len(self.played) >= self.most:
                return False
            in_vain.add((pose, action))
            if not self.play(action):
                return False
        return True

    def _done(self, errand: Errand) -> bool:
        world = self.game.world
        if errand.step == PICKUP:
            return world.carrying is not None
        if errand.step == DROP:
            return world.carrying is None
        if errand.step == TOGGLE:
            return getattr(world.grid.get(*errand.place), "is_open", True)
        return front(_pose(world)) == errand.place

    def _direct(self, errand: Errand, options: dict[str, Move]) -> str | None:
        """The action that does the errand, or goes up to where it is done."""
        at_place = {
            move.text.split(f" {move.thing.label}")[0]: move
            for move in options.values()
            if move.thing is not None and move.thing.position == errand.place
        }
        if errand.step == PICKUP:
            verbs = ("pickup",)
        elif errand.step == TOGGLE and errand.through:
            verbs = ("toggle and go through",)
        elif errand.step == TOGGLE:
            verbs = ("toggle", "go to")
        else:
            verbs = ("go to",)
        if errand.step == DROP and front(_pose(self.game.world)) == errand.place:
            return "drop"
        for verb in verbs:
            if verb in at_place and at_place[verb].steps is not None:
                return at_place[verb].text
        return None

    def _turn(self, errand: Errand, in_vain: set) -> str | None:
        """A turn to the right, where one to three of them show what is wanted."""
        world = self.game.world
        heading, found = world.agent_dir, False
        for turns in (1, 2, 3):
            world.agent_dir = (heading + turns) % 4
            view = look(world, world.gen_obs()["image"])
            action = self._direct(errand, moves(view))
            found |= action is not None and (_pose(world), action) not in in_vain
        world.agent_dir = heading
        return "turn right" if found else None

    def _nearer(self, distances: dict[Pose, int]) -> str | None:
        """The action that leads nearest to the place."""
        start = _pose(self.game.world)
        best, least = None, distances.get(start)
        for move in self.game.moves().values():
            if least is not None and move.steps and set(move.steps) <= {FORWARD, LEFT, RIGHT}:
                left = distances.get(self._walked(start, move.steps), least)
                if left < least:
                    best, least = move.text, left
        return best

    def _walked(self, pose: Pose, steps: tuple[int, ...]) -> Pose:
        for step in steps:
            new = moved(pose, step)
            if not self._free(new[0]):
                break
            pose = new
        return pose

    def _free(self, position: Position) -> bool:
        cell = self.game.world.grid.get(*position)
        return cell is None or cell.can_overlap()

    def _distances(self, place: Position) -> dict[Pose, int]:
        """Steps from poses to the nearest one that faces the place."""
        faced = [((place[0] - x, place[1] - y), h) for h, (x, y) in enumerate(HEADINGS)]
        distances = {pose: 0 for pose in faced if self._inside(pose[0]) and self._free(pose[0])}
        queue = collections.deque(distances)
        while queue:
            pose = queue.popleft()
            (x, y), heading = pose
            dx, dy = HEADINGS[heading]
            for before in (((x - dx, y - dy), heading), moved(pose, LEFT), moved(pose, RIGHT)):
                new = before not in distances and self._inside(before[0])
                if new and self._free(before[0]):
                    distances[before] = distances[pose] + 1
                    queue.append(before)
        return distances

    def _inside(self, position: Position) -> bool:
        x, y = position
        grid = self.game.world.grid
        return 0 <= x < grid.width and 0 <= y < grid.height
