"""What can be done from a view: AgentBoard's actions, and the steps of minigrid behind each.

An action such as "go to red ball 1" goes the shortest way over what is seen: cells that are out
of sight count as free, and so do doors, open or not. Things are numbered as the view numbers
them, also where some cannot be reached (AgentBoard then numbers the others anew).
"""

import collections
import dataclasses
import functools

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
      thing: that it is about, or None.
      steps: of minigrid, in order; None where it cannot be done.
      refusal: says why not; "" where it can be done.
    """

    text: str
    thing: Thing | None = None
    steps: tuple[int, ...] | None = None
    refusal: str = ""


def moves(view: View) -> dict[str, Move]:
    """The actions by their words, in the order in which AgentBoard lists them.

    Those that cannot be done are there, too, where AgentBoard says why.
    """
    ways = Ways(view)
    listed = [_step("turn left", LEFT), _step("turn right", RIGHT), _forward(view)]
    if view.carrying is None:
        loose = [thing for thing in view.things if thing.kind not in ("door", "goal")]
        listed += [_reach("pickup", thing, ways, (PICKUP,)) for thing in loose]
    listed.append(_drop(view))
    for door in view.things:
        if door.kind == "door":
            listed += _door(door, view, ways)
    for goal in view.things:
        if goal.kind == "goal":
            steps = ways.onto(goal.position)
            why = "" if steps is not None else _no_way("go to the goal")
            listed.append(Move("go to goal", goal, steps, why))
    others = [thing for thing in view.things if thing.kind != "goal"]
    listed += [_reach("go to", thing, ways) for thing in others]
    listed.append(Move(CHECK, steps=()))
    by_text = {}
    for move in listed:  # the first "toggle" or "go to goal" counts
        by_text.setdefault(move.text, move)
    return by_text


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
        solid = {thing.position for thing in view.things if thing.kind not in ("door", "goal")}
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
        """The pose before each that can be reached, and the step; nearest poses come first."""
        came_from = {self._start: (self._start, -1)}
        queue = collections.deque([self._start])
        while queue:
            pose = queue.popleft()
            for step in (FORWARD, LEFT, RIGHT):
                new = moved(pose, step)
                (x, y), _ = new
                inside = x in self._columns and y in self._rows
                if inside and new not in came_from and new[0] not in self._blocked:
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


def _step(text: str, step: int) -> Move:
    return Move(text, steps=(step,))


def _no_way(what: str) -> str:
    return f"You cannot {what}, as there is no path leading to it."


def _forward(view: View) -> Move:
    if view.barrier and view.barrier.ahead <= 1:
        why = "There is a barrier in front of you, you can't move forward."
        return Move("move forward", refusal=why)
    return _step("move forward", FORWARD)


def _drop(view: View) -> Move:
    if view.carrying is None:
        why = "You cannot drop the object, as you are not carrying anything."
        return Move("drop", refusal=why)
    ahead = front((view.position, view.heading))
    solid = [t for t in view.things if t.in_front and t.kind in ("box", "lava", "ball", "key")]
    if solid or ahead in view.walls:
        why = "You cannot drop the object, as there is already an object in front of you."
        return Move("drop", refusal=why)
    return _step("drop", DROP)


def _reach(verb: str, thing: Thing, ways: Ways, last: tuple[int, ...] = ()) -> Move:
    """Go up to a thing, and then do what is `last`."""
    text = f"{verb} {thing.label}"
    steps = ways.to(thing.position)
    if steps is None:
        return Move(text, thing, refusal=_no_way(text))
    return Move(text, thing, steps + last)


def _door(door: Thing, view: View, ways: Ways) -> list[Move]:
    through = f"go through {door.label}"
    opening = f"toggle and {through}"
    colour, state, _ = door.name.split()
    if state == "open":
        steps = ways.onto(door.position)
        return [Move(through, door, steps, "" if steps is not None else _no_way(through))]
    if state == "locked":
        if view.carrying is None or view.carrying[1] != "key":
            return [Move(opening, door, refusal=f"You cannot {opening}, {_NO_KEY}")]
        if view.carrying[0] != colour:
            return [Move(opening, door, refusal=f"You cannot {opening}, {_WRONG_KEY}")]
    found = [_reach("toggle and go through", door, ways, (TOGGLE, FORWARD))]
    if door.in_front:
        found.append(Move("toggle", door, (TOGGLE,)))
    if state == "closed":
        why = f"You cannot {through}, as it is closed. You should toggle it first."
        found.append(Move(through, door, refusal=why))
    return found


_NO_KEY = "as you are not carrying a key."
_WRONG_KEY = "as the color of the key you are carrying does not match the color of door."
