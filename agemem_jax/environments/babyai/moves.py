"""What can be done from a view: AgentBoard's actions, and the steps of minigrid behind each.

An action such as "go to red ball 1" goes the shortest way over what is seen: cells that are out
of sight count as free, and so do doors, open or not. Things are numbered as the view numbers
them, also where some cannot be reached (AgentBoard then numbers the others anew).
"""

import collections
import dataclasses
import functools
from collections.abc import Callable

from agemem_jax.environments.babyai.sight import Position, Thing, View
from agemem_jax.environments.babyai.simulator import (
    DROP,
    FORWARD,
    HEADINGS,
    LEFT,
    PICKUP,
    RIGHT,
    TOGGLE,
)

CHECK = "check available actions"
NOT_UNDERSTOOD = "The action is not recognized. Please check valid actions."

Pose = tuple[Position, int]


def front(pose: Pose) -> Position:
    """The cell that a pose faces."""
    (x, y), heading = pose
    dx, dy = HEADINGS[heading]
    return x + dx, y + dy


def moved(pose: Pose, step: int) -> Pose:
    """The pose after `FORWARD`, `LEFT` or `RIGHT` in a free world."""
    position, heading = pose
    if step == FORWARD:
        return front(pose), heading
    return position, (heading + (1 if step == RIGHT else -1)) % 4


@dataclasses.dataclass(frozen=True)
class Move:
    """An action, or why it cannot be done.

    Attributes:
      text: the action in words.
      last: its steps of minigrid, in order; those at the end, where a way comes before.
      thing: that it is about, or None.
      way: gives the steps to the thing, or None where there is no way; it is asked late, as it
        costs the most.
      refused: says why it cannot be done, where that shows without a way.
    """

    text: str
    last: tuple[int, ...] = ()
    thing: Thing | None = None
    way: Callable[[Position], tuple[int, ...] | None] | None = None
    refused: str = ""

    @functools.cached_property
    def steps(self) -> tuple[int, ...] | None:
        """The steps of minigrid, in order; None where it cannot be done."""
        if self.refused:
            return None
        if self.way is None:
            return self.last
        way = self.way(self.thing.position)
        return None if way is None else way + self.last

    @property
    def refusal(self) -> str:
        """Why it cannot be done."""
        return self.refused or f"You cannot {self.text}, as there is no path leading to it."


def moves(view: View) -> dict[str, Move]:
    """The actions by their words, in the order in which AgentBoard lists them.

    Those that cannot be done are there, too, where AgentBoard says why.
    """
    ways = Ways(view)
    listed = [Move("turn left", (LEFT,)), Move("turn right", (RIGHT,)), _forward(view)]
    if view.carrying is None:
        loose = [thing for thing in view.things if thing.kind != "door"]
        listed += [Move(f"pickup {t.label}", (PICKUP,), t, ways.to) for t in loose]
    listed.append(_drop(view))
    for thing in view.things:
        if thing.kind == "door":
            listed += _door(thing, view, ways)
    listed += [Move(f"go to {thing.label}", (), thing, ways.to) for thing in view.things]
    listed.append(Move(CHECK))
    return {move.text: move for move in listed}


def normalised(action: str) -> str:
    """The words of an action as `moves` writes them."""
    words = action.lower().strip().rstrip(".").split()
    if words[:2] == ["pick", "up"]:
        words[:2] = ["pickup"]
    if words[:1] == ["check"]:
        return CHECK
    return " ".join(words)


class Ways:
    """The shortest ways over what a view shows."""

    def __init__(self, view: View):
        self._start: Pose = (view.position, view.heading)
        self._columns, self._rows = view.columns, view.rows
        solid = {thing.position for thing in view.things if thing.kind != "door"}
        self._blocked = view.walls | solid

    def to(self, position: Position) -> tuple[int, ...] | None:
        """Steps until one faces the position; None where no way leads there."""
        return self._steps(self._facing.get(position))

    def onto(self, position: Position) -> tuple[int, ...] | None:
        """Steps until one stands on the position; None where no way leads there."""
        return self._steps(self._standing.get(position))

    def _steps(self, pose: Pose | None) -> tuple[int, ...] | None:
        if pose is None:
            return None
        steps = []
        while pose != self._start:
            pose, step = self._came_from[pose]
            steps.append(step)
        return tuple(reversed(steps))

    @functools.cached_property
    def _came_from(self) -> dict[Pose, tuple[Pose, int]]:
        """The pose before each that can be reached, and the step; nearest poses come first.

        Of ways equally long AgentBoard's is taken: a pose is closed when it is first visited,
        and until then whoever comes by once more is the one before it.
        """
        came_from = {self._start: (self._start, -1)}
        visited = set()
        queue = collections.deque([self._start])
        while queue:
            pose = queue.popleft()
            visited.add(pose)
            for step in (FORWARD, LEFT, RIGHT):
                new = moved(pose, step)
                (x, y), _ = new
                inside = x in self._columns and y in self._rows
                if inside and new not in visited and new[0] not in self._blocked:
                    came_from[new] = (pose, step)
                    queue.append(new)
        return came_from

    @functools.cached_property
    def _facing(self) -> dict[Position, Pose]:
        """The nearest pose that faces a position."""
        nearest: dict[Position, Pose] = {}
        for pose in self._came_from:
            nearest.setdefault(front(pose), pose)
        return nearest

    @functools.cached_property
    def _standing(self) -> dict[Position, Pose]:
        """The nearest pose that stands on a position."""
        nearest: dict[Position, Pose] = {}
        for pose in self._came_from:
            nearest.setdefault(pose[0], pose)
        return nearest


def _forward(view: View) -> Move:
    barred = view.barrier is not None and view.barrier.ahead <= 1
    why = "There is a barrier in front of you, you can't move forward." if barred else ""
    return Move("move forward", (FORWARD,), refused=why)


def _drop(view: View) -> Move:
    taken = front((view.position, view.heading)) in view.walls
    taken |= any(thing.in_front and thing.kind != "door" for thing in view.things)
    why = ""
    if view.carrying is None:
        why = "You cannot drop the object, as you are not carrying anything."
    elif taken:
        why = "You cannot drop the object, as there is already an object in front of you."
    return Move("drop", (DROP,), refused=why)


def _door(door: Thing, view: View, ways: Ways) -> list[Move]:
    through = f"go through {door.label}"
    colour, state, _ = door.name.split()
    if state == "open":
        return [Move(through, (), door, ways.onto)]
    why = ""
    if state == "locked":
        if view.carrying is None or view.carrying[1] != "key":
            why = "as you are not carrying a key."
        elif view.carrying[0] != colour:
            why = "as the color of the key you are carrying does not match the color of door."
    opening = f"toggle and {through}"
    if why:
        return [Move(opening, thing=door, refused=f"You cannot {opening}, {why}")]
    found = [Move(opening, (TOGGLE, FORWARD), door, ways.to)]
    if door.in_front:
        found.append(Move("toggle", (TOGGLE,), door))
    if state == "closed":
        why = f"You cannot {through}, as it is closed. You should toggle it first."
        found.append(Move(through, thing=door, refused=why))
    return found
