"""Generated planning problems of AgentBoard's four domains, each with a plan that solves it.

No problem is one of AgentBoard's, under whatever names: each generator stays out of a corner in
which all of AgentBoard's lie. Gripper has no 4, 6, 8, 10 or 12 balls; blocks do not start in
piles of the same heights; barman has no 3 ingredients; tyreworld always asks for nuts to be tight
or for the boot to be closed, which AgentBoard's never does.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from agemem_jax.environments.pddl import experts
from agemem_jax.environments.pddl.texts import Fact, Problem
from agemem_jax.tasks.pddl_domains import PDDL_NAMES

# Steps of the expert: from the fewest to the most.
STEPS = {"tiny": (1, 6), "small": (5, 14), "medium": (12, 30)}
DIFFICULTIES = tuple(STEPS)

# The heights of the piles that AgentBoard's problems of blocks start with.
OFFICIAL_PILES = frozenset([(3,), (4,), (5,), (6,), (1, 3), (1, 1, 4), (2, 2, 3), (1, 1, 1, 4)])
_ATTEMPTS = 1000


@dataclasses.dataclass(frozen=True)
class Solved:
    """A problem and the actions that reach its goal."""

    problem: Problem
    plan: tuple[Fact, ...]


def generate(domain: str, difficulty: str, rng: np.random.Generator) -> Solved:
    """A random problem that the expert solves in the steps of the difficulty.

    Args:
      domain: a key of `pddl_domains.DOMAIN_TEXTS`.
      difficulty: a key of `STEPS`.
      rng: drawn from.
    """
    fewest, most = STEPS[difficulty]
    for _ in range(_ATTEMPTS):
        drawn = _GENERATORS[domain](difficulty, rng)
        if drawn is None:
            continue
        objects, init, goal = drawn
        name = f"{domain}-{difficulty}"
        problem = Problem(name, PDDL_NAMES[domain], objects, frozenset(init), tuple(goal))
        plan = experts.plan(problem)
        if fewest <= len(plan) <= most:
            return Solved(problem, tuple(plan))
    raise RuntimeError(f"No {difficulty} problem of {domain} in {_ATTEMPTS} attempts.")


_Drawn = tuple[dict[str, str], list[Fact], list[Fact]]


def _gripper(difficulty: str, rng: np.random.Generator) -> _Drawn:
    rooms = ("rooma", "roomb")
    numbers = {"tiny": (1, 2), "small": (2, 3, 5), "medium": (5, 7, 9)}[difficulty]
    names = [f"ball{i + 1}" for i in range(12)]
    balls = _some(rng, names, _pick(rng, numbers))
    together = rng.random() < 0.5
    room = _pick(rng, rooms)
    start = {ball: room if together else _pick(rng, rooms) for ball in balls}
    init: list[Fact] = [("room", room) for room in rooms]
    init += [("gripper", hand) for hand in ("left", "right")]
    init += [("free", hand) for hand in ("left", "right")]
    init += [("ball", ball) for ball in balls]
    init += [("at", ball, start[ball]) for ball in balls]
    init.append(("at-robby", _pick(rng, rooms)))
    other = {"rooma": "roomb", "roomb": "rooma"}
    goal: list[Fact] = [("at", ball, other[start[ball]]) for ball in balls]
    return dict.fromkeys((*rooms, *balls, "left", "right"), "object"), init, goal


def _blockworld(difficulty: str, rng: np.random.Generator) -> _Drawn | None:
    numbers = {"tiny": (2, 3), "small": (3, 4, 5), "medium": (6, 7, 8)}[difficulty]
    blocks = [f"b{i + 1}" for i in range(_pick(rng, numbers))]
    piles = _piles(blocks, rng)
    if tuple(sorted(map(len, piles))) in OFFICIAL_PILES:
        return None
    init: list[Fact] = [("arm-empty",)]
    for pile in piles:
        init += [("on-table", pile[0]), ("clear", pile[-1])]
        init += [("on", upper, lower) for lower, upper in zip(pile, pile[1:], strict=False)]
    goal: list[Fact] = [
        ("on", upper, lower)
        for pile in _piles(blocks, rng)
        for lower, upper in zip(pile, pile[1:], strict=False)
    ]
    if set(goal) <= set(init):
        return None
    return dict.fromkeys(blocks, "object"), init, goal


def _piles(blocks: list[str], rng: np.random.Generator) -> list[list[str]]:
    """Random piles, from below to above: each block goes onto a pile or starts one."""
    piles: list[list[str]] = []
    for i in rng.permutation(len(blocks)):
        place = int(rng.integers(len(piles) + 1))
        if place == len(piles):
            piles.append([])
        piles[place].append(blocks[i])
    return piles


def _barman(difficulty: str, rng: np.random.Generator) -> _Drawn:
    ingredients = [f"ingredient{i + 1}" for i in range(_pick(rng, (2, 4)))]
    dispensers = [f"dispenser{i + 1}" for i in range(len(ingredients))]
    cocktails = [f"cocktail{i + 1}" for i in range(int(rng.integers(2, 4)))]
    shots = [f"shot{i + 1}" for i in range(int(rng.integers(3, 6)))]
    vessels = ["shaker1", *shots]
    init: list[Fact] = [(name, v) for v in vessels for name in ("ontable", "clean", "empty")]
    init += [("handempty", "left"), ("handempty", "right")]
    init += [("dispenses", *pair) for pair in zip(dispensers, ingredients, strict=True)]
    init += [("shaker-empty-level", "shaker1", "l0"), ("shaker-level", "shaker1", "l0")]
    init += [("next", "l0", "l1"), ("next", "l1", "l2")]
    for cocktail in cocktails:
        one, two = _some(rng, ingredients, 2)
        init += [("cocktail-part1", cocktail, one), ("cocktail-part2", cocktail, two)]
    plain, mixed = {
        "tiny": ((1, 0), (2, 0)),
        "small": ((2, 0), (3, 0), (0, 1), (0, 1), (1, 1)),
        "medium": ((0, 2), (1, 1), (1, 2), (2, 1)),
    }[difficulty][int(rng.integers({"tiny": 2, "small": 5, "medium": 4}[difficulty]))]
    drinks = [_pick(rng, ingredients) for _ in range(plain)]
    drinks += [_pick(rng, cocktails) for _ in range(mixed)]
    goal: list[Fact] = [
        ("contains", shot, drink)
        for shot, drink in zip(_some(rng, shots, len(drinks)), drinks, strict=True)
    ]
    kinds = (
        (["shaker1"], "shaker"),
        (["left", "right"], "hand"),
        (shots, "shot"),
        (ingredients, "ingredient"),
        (cocktails, "cocktail"),
        (dispensers, "dispenser"),
        (["l0", "l1", "l2"], "level"),
    )
    return {name: kind for names, kind in kinds for name in names}, init, goal


def _tyreworld(difficulty: str, rng: np.random.Generator) -> _Drawn:
    number = _pick(rng, {"tiny": (1, 2), "small": (1, 2), "medium": (1, 2, 3)}[difficulty])
    numbers = range(1, number + 1)
    objects = dict.fromkeys(("wrench", "jack", "pump"), "tool") | {"boot": "container"}
    opened = rng.random() < 0.3
    init: list[Fact] = [("unlocked", "boot"), ("isopen" if opened else "closed", "boot")]
    for tool in ("wrench", "jack", "pump"):
        init.append(("have", tool) if rng.random() < 0.2 else ("in", tool, "boot"))
    for i in numbers:
        hub, nuts, spare, flat = f"the-hub{i}", f"nuts{i}", f"r{i}", f"w{i}"
        objects |= {hub: "hub", nuts: "nut", spare: "wheel", flat: "wheel"}
        init += [("in", spare, "boot"), ("intact", spare), ("not-inflated", spare)]
        init += [("on", flat, hub), ("on-ground", hub), ("tight", nuts, hub), ("fastened", hub)]
    goal: list[Fact] = []
    changed = {"tiny": 0, "small": 1, "medium": int(rng.integers(1, number + 1))}[difficulty]
    chosen = [i + 1 for i in rng.permutation(number)[:changed]]
    for i in sorted(chosen):
        goal += [("on", f"r{i}", f"the-hub{i}"), ("tight", f"nuts{i}", f"the-hub{i}")]
        if rng.random() < 0.5:
            goal.append(("in", f"w{i}", "boot"))
    goal += [("inflated", f"r{i}") for i in numbers if rng.random() < 0.5]
    if not chosen:
        goal += [("have", tool) for tool in ("wrench", "jack") if rng.random() < 0.3]
        goal.append(("closed", "boot"))
    return objects, init, goal


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _some(rng: np.random.Generator, options: list[str], number: int) -> list[str]:
    return [options[i] for i in rng.permutation(len(options))[:number]]


_GENERATORS: dict[str, Callable[[str, np.random.Generator], _Drawn | None]] = {
    "gripper": _gripper,
    "blockworld": _blockworld,
    "barman": _barman,
    "tyreworld": _tyreworld,
}
