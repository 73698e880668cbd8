"""What the agent sees, as things with places, and in AgentBoard's words.

The agent sees a square of cells before it (7 by 7), as far as walls and closed doors let it.
Positions are (x, y) in the world; `ahead` and `right` are steps from the agent.
"""

import dataclasses
from typing import Any

import numpy as np

from agemem_jax.environments.babyai.simulator import COLOURS, HEADINGS

Position = tuple[int, int]

_KINDS = {2: "wall", 4: "door", 5: "key", 6: "ball", 7: "box"}  # all that levels hold
_STATES = ("open", "closed", "locked")


@dataclasses.dataclass(frozen=True)
class Thing:
    """Something in sight.

    Attributes:
      kind: "door", "key", "ball", "box" or "wall".
      name: its colour and kind, with the state of a door between them.
      number: tells things of one name apart; the nearest is 1.
      position: in the world.
      ahead, right: steps from the agent; `right` is negative on the left.
    """

    kind: str
    name: str
    number: int
    position: Position
    ahead: int
    right: int

    @property
    def label(self) -> str:
        """As actions name it."""
        return f"{self.name} {self.number}"

    @property
    def in_front(self) -> bool:
        return (self.ahead, self.right) == (1, 0)


@dataclasses.dataclass(frozen=True)
class View:
    """All that is seen from one place.

    Attributes:
      position, heading: of the agent; the heading counts in `HEADINGS`.
      things: without walls, from near to far.
      walls: where walls are seen.
      barrier: the nearest wall or box straight ahead, if any.
      carrying: colour and kind of what is carried, or None.
      columns, rows: the x and y that a way may be planned over.
    """

    position: Position
    heading: int
    things: tuple[Thing, ...]
    walls: frozenset[Position]
    barrier: Thing | None
    carrying: tuple[str, str] | None
    columns: range
    rows: range


def look(world: Any, image: np.ndarray) -> View:
    """What is seen in a world of minigrid.

    Args:
      world: tells where the agent is and what it carries.
      image: [column, row, (kind, colour, state)], as the world gave it last; the agent stands
        in the middle of the last row.
    """
    x, y = (int(i) for i in world.agent_pos)
    heading = int(world.agent_dir)
    (fx, fy), (rx, ry) = HEADINGS[heading], HEADINGS[(heading + 1) % 4]
    cells, size = image.tolist(), len(image)
    seen = []
    for ahead in range(size - 1, -1, -1):  # AgentBoard's order, which numbers things equally far
        for column in range(size):
            kind, colour, state = cells[column][size - 1 - ahead]
            right = column - size // 2
            at = (x + fx * ahead + rx * right, y + fy * ahead + ry * right)
            # In the agent's own place stands what it carries.
            if kind in _KINDS and min(at) >= 0 and at != (x, y):
                door = f"{_STATES[state]} " if kind == 4 else ""
                name = f"{COLOURS[colour]} {door}{_KINDS[kind]}"
                seen.append((ahead + abs(right), len(seen), _KINDS[kind], name, at, ahead, right))
    seen.sort()

    things, walls, counts, barrier = [], set(), {}, None
    for _, _, kind, name, at, ahead, right in seen:
        counts[name] = counts.get(name, 0) + 1
        thing = Thing(kind, name, counts[name], at, ahead, right)
        if barrier is None and right == 0 and kind in ("wall", "box"):
            barrier = thing
        if kind == "wall":
            walls.add(at)
        else:
            things.append(thing)
    carried = world.carrying
    return View(
        position=(x, y),
        heading=heading,
        things=tuple(things),
        walls=frozenset(walls),
        barrier=barrier,
        carrying=carried and (carried.color, carried.type),
        columns=_planned(x, fx, rx, size),
        rows=_planned(y, fy, ry, size),
    )


def _planned(at: int, forward: int, right: int, size: int) -> range:
    """The coordinates of one axis that AgentBoard plans ways over.

    They are those in sight, and one more at the end from where the view counts backwards.
    """
    corner = at + forward * (size - 1) - right * (size // 2)
    if right - forward < 0:
        return range(corner - size, corner + 1)
    return range(corner, corner + size)


def describe(view: View) -> str:
    """The view in AgentBoard's words, letter by letter."""
    if view.things or view.walls:
        parts = ["In front of you in this room, you can see several objects: "]
        parts += [f"There is a {thing.label} {_place(thing)}.  " for thing in view.things]
    else:
        parts = ["You cannot see any objects within sight."]
    parts.append("The room has walls around you. ")
    if view.barrier:
        parts.append(f"You are facing a {view.barrier.kind} {view.barrier.ahead} steps away. ")
    carried = "a {} {}".format(*view.carrying) if view.carrying else None
    parts.append(f"You are carrying {carried}." if carried else "You are not carrying anything.")
    return "".join(parts)


def _place(thing: Thing) -> str:
    if thing.right == 0:
        return f"right in front of you {thing.ahead} steps away"
    side = "right" if thing.right > 0 else "left"
    return f"{thing.ahead} steps in front of you and {abs(thing.right)} steps to your {side}"
