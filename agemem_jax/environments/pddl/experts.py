"""Plans by rules for AgentBoard's four domains: what an expert would do, without a search.

Plans are short but not always the shortest. They hold for problems that start as AgentBoard's
do (hands free, glasses clean and empty); who needs certainty runs them.
"""

from collections.abc import Callable

from agemem_jax.environments.pddl.texts import Fact, Problem


def plan(problem: Problem) -> list[Fact]:
    """Ground actions that lead from the start to the goal.

    Raises:
      LookupError: there are no rules for the domain, or they find no way.
    """
    expert = EXPERTS.get(problem.domain)
    if expert is None:
        known = ", ".join(EXPERTS)
        raise LookupError(f"There are rules for {known}, but not for {problem.domain!r}.")
    try:
        return expert(problem)
    except (KeyError, IndexError, StopIteration, ValueError) as error:
        raise LookupError("the rules do not fit this problem.") from error


def gripper(problem: Problem) -> list[Fact]:
    """Carries balls two at a time, and takes some back on the way where there are any."""
    here = next(fact[1] for fact in problem.init if fact[0] == "at-robby")
    where = {fact[1]: fact[2] for fact in problem.init if fact[0] == "at"}
    target = {fact[1]: fact[2] for fact in problem.goal if fact[0] == "at"}
    free = [name for name in problem.objects if ("free", name) in problem.init]
    held: dict[str, str] = {f[1]: f[2] for f in sorted(problem.init) if f[0] == "carry"}
    end = next((fact[1] for fact in problem.goal if fact[0] == "at-robby"), None)
    actions: list[Fact] = []
    order = [name for name in problem.objects if name in where or name in held]
    while True:
        for ball in [b for b in held if target.get(b, here) == here]:
            actions.append(("drop", ball, here, held[ball]))
            free.append(held.pop(ball))
            where[ball] = here
        left = [b for b in order if b in where and target.get(b, where[b]) != where[b]]
        mine = [b for b in left if where[b] == here]
        # Such as go where one is carried to already, or where most go, first.
        going = [target[b] for b in held] or [target[b] for b in mine]
        for ball in sorted(mine, key=lambda b: -going.count(target[b])):
            if not free:
                break
            held[ball] = free.pop(0)
            del where[ball]
            actions.append(("pick", ball, here, held[ball]))
        if held:
            there = target[next(iter(held))]
        elif left:
            there = where[left[0]]
        elif end not in (None, here):
            there = end
        else:
            return actions
        if there == here:
            raise LookupError("there is a ball to be carried, but no free gripper.")
        actions.append(("move", here, there))
        here = there


def blocks(problem: Problem) -> list[Fact]:
    """Puts on the table what stands wrong, but straight in its place where that is ready."""
    below = {fact[1]: fact[2] for fact in problem.init if fact[0] == "on"}
    wanted = {fact[1]: fact[2] for fact in problem.goal if fact[0] == "on"}
    table = {fact[1] for fact in problem.goal if fact[0] == "on-table"}
    blocks = list(problem.objects)
    actions: list[Fact] = []
    for fact in problem.init:
        if fact[0] == "holding":
            actions.append(("putdown", fact[1]))

    def is_right(block: str) -> bool:
        """Whether it and all below it can stay for good."""
        under = below.get(block)
        if block in wanted and under != wanted[block] or block in table and under is not None:
            return False
        # What shall carry a certain block, or shall be clear, must not carry another.
        carries = [b for b, on in wanted.items() if on == under]
        blocked = ("clear", under) in problem.goal or carries not in ([], [block])
        if under is not None and blocked:
            return False
        return under is None or is_right(under)

    def move(block: str, to: str | None) -> None:
        under = below.pop(block, None)
        actions.append(("pickup", block) if under is None else ("unstack", block, under))
        actions.append(("putdown", block) if to is None else ("stack", block, to))
        if to is not None:
            below[block] = to

    while wrong := [block for block in blocks if not is_right(block)]:
        if len(actions) > 4 * len(blocks):  # none is moved more than twice
            raise LookupError("the goal contradicts itself.")
        clear = [block for block in wrong if block not in below.values()]
        ready = [
            block
            for block in clear
            if block in wanted and wanted[block] not in below.values() and is_right(wanted[block])
        ]
        standing = [block for block in clear if block in below]
        if ready:
            move(ready[0], wanted[ready[0]])
        elif standing:
            move(max(standing, key=lambda block: _height(block, below)), None)
        else:
            raise LookupError("no block can be moved nearer to the goal.")
    return actions


def _height(block: str, below: dict[str, str]) -> int:
    return 1 + _height(below[block], below) if block in below else 0


def barman(problem: Problem) -> list[Fact]:
    """Mixes each cocktail with the glass that it is for, then fills what holds an ingredient."""
    hand, other = problem.of_type("hand")[:2]
    gives = {fact[2]: fact[1] for fact in sorted(problem.init) if fact[0] == "dispenses"}
    first = {fact[1]: fact[2] for fact in problem.init if fact[0] == "cocktail-part1"}
    second = {fact[1]: fact[2] for fact in problem.init if fact[0] == "cocktail-part2"}
    above = {fact[1]: fact[2] for fact in problem.init if fact[0] == "next"}
    wanted = [fact[1:] for fact in problem.goal if fact[0] == "contains"]
    drinks: dict[str, list[str]] = {}
    for shot, drink in wanted:
        if drink in first:
            drinks.setdefault(drink, []).append(shot)
    actions: list[Fact] = []
    rest: tuple[str, str] | None = None  # what is left in the shaker, and its level
    for cocktail, shots in drinks.items():
        shaker = problem.of_type("shaker")[0]
        empty = next(f[2] for f in problem.init if f[:2] == ("shaker-empty-level", shaker))
        half, full = above[empty], above[above[empty]]
        # A filled shaker serves two; the rest of it is poured away.
        for pair in (shots[i : i + 2] for i in range(0, len(shots), 2)):
            if rest:
                actions += [
                    ("empty-shaker", hand, shaker, *rest, empty),
                    ("clean-shaker", hand, other, shaker),
                    ("leave", hand, shaker),
                ]
            shot, (part1, part2) = pair[0], (first[cocktail], second[cocktail])
            actions += [
                ("grasp", hand, shot),
                ("fill-shot", shot, part1, hand, other, gives[part1]),
                ("pour-shot-to-clean-shaker", shot, part1, shaker, hand, empty, half),
                ("clean-shot", shot, part1, hand, other),
                ("fill-shot", shot, part2, hand, other, gives[part2]),
                ("pour-shot-to-used-shaker", shot, part2, shaker, hand, half, full),
                ("clean-shot", shot, part2, hand, other),
                ("leave", hand, shot),
                ("grasp", hand, shaker),
                ("shake", cocktail, part1, part2, shaker, hand, other),
            ]
            levels = (full, half, empty)
            for place, glass in enumerate(pair):
                upper, lower = levels[place : place + 2]
                actions.append(("pour-shaker-to-shot", cocktail, glass, hand, shaker, upper, lower))
            rest = (cocktail, levels[len(pair)])
    plain = [(shot, drink) for shot, drink in wanted if drink not in first]
    if rest and plain:
        actions.append(("leave", hand, shaker))
    for place, (shot, drink) in enumerate(plain):
        actions.append(("grasp", hand, shot))
        actions.append(("fill-shot", shot, drink, hand, other, gives[drink]))
        if place + 1 < len(plain):
            actions.append(("leave", hand, shot))
    return actions


class _Garage:
    """Where everything is in tyreworld while a plan is made, and the plan so far."""

    def __init__(self, problem: Problem):
        self.facts = set(problem.init)
        self.goal = frozenset(problem.goal)
        self.actions: list[Fact] = []

    def holds(self, *fact: str) -> bool:
        return fact in self.facts

    def do(self, action: Fact, gone: list[Fact], new: list[Fact]) -> None:
        self.actions.append(action)
        self.facts = (self.facts - set(gone)) | set(new)

    def open(self, box: str) -> None:
        if self.holds("closed", box):
            self.do(("open", box), [("closed", box)], [("isopen", box)])

    def get(self, thing: str) -> None:
        """Has the thing in hand: out of its box, or the jack from under a hub."""
        box = next((f[2] for f in self.facts if f[:2] == ("in", thing)), None)
        jacked = sorted(fact[1] for fact in self.facts if fact[0] == "not-on-ground")
        if box is not None:
            self.open(box)
            self.do(("fetch", thing, box), [("in", thing, box)], [("have", thing)])
        elif thing == "jack" and jacked and not self.holds("have", "jack"):
            self.lower(jacked[0])
        elif not self.holds("have", thing):
            raise LookupError(f"{thing} is nowhere to be fetched.")

    def lower(self, hub: str) -> None:
        new = [("on-ground", hub), ("have", "jack")]
        self.do(("jack-down", hub), [("not-on-ground", hub)], new)

    def inflate(self, wheel: str) -> None:
        self.get("pump")
        if not any(fact[:2] == ("on", wheel) for fact in self.facts):
            self.get(wheel)
        self.do(("inflate", wheel), [("not-inflated", wheel)], [("inflated", wheel)])

    def serve(self, hub: str) -> None:
        """Does what the goal asks of a hub: a wheel on it or off it, its nuts fast or tight."""
        now = next((f[1] for f in self.facts if f[0] == "on" and f[2] == hub), None)
        wanted = next((f[1] for f in self.goal if f[0] == "on" and f[2] == hub), None)
        nuts = next(
            (f[1] for f in sorted(self.facts) if f[0] in ("tight", "loose") and f[2] == hub), None
        )
        tight = next((f[1] for f in self.goal if f[0] == "tight" and f[2] == hub), None)
        stored = any(f[0] in ("in", "have") and f[1] == now for f in self.goal)
        if now != wanted if wanted else stored:
            self._change(hub, now, wanted, nuts)
        if (tight or ("fastened", hub) in self.goal) and self.holds("unfastened", hub):
            nuts = tight or nuts or self._nuts_in_hand()
            self.get("wrench")
            gone = [("unfastened", hub), ("have", nuts)]
            self.do(("do-up", nuts, hub), gone, [("fastened", hub), ("loose", nuts, hub)])
        if self.holds("not-on-ground", hub) and (tight or ("on-ground", hub) in self.goal):
            self.lower(hub)
        if tight and self.holds("loose", tight, hub):
            self.get("wrench")
            self.do(("tighten", tight, hub), [("loose", tight, hub)], [("tight", tight, hub)])

    def _change(self, hub: str, now: str | None, wanted: str | None, nuts: str | None) -> None:
        """Takes a wheel off a hub and puts another on, as far as there is one."""
        if nuts is not None and self.holds("tight", nuts, hub):
            self.get("wrench")
            self.do(("loosen", nuts, hub), [("tight", nuts, hub)], [("loose", nuts, hub)])
        if self.holds("on-ground", hub):
            self.get("jack")
            gone = [("on-ground", hub), ("have", "jack")]
            self.do(("jack-up", hub), gone, [("not-on-ground", hub)])
        if nuts is not None and self.holds("fastened", hub):
            self.get("wrench")
            gone = [("fastened", hub), ("loose", nuts, hub)]
            self.do(("undo", nuts, hub), gone, [("have", nuts), ("unfastened", hub)])
        if now is not None:
            new = [("have", now), ("free", hub)]
            self.do(("remove-wheel", now, hub), [("on", now, hub)], new)
        if wanted is not None:
            self.get(wanted)
            gone = [("have", wanted), ("free", hub)]
            self.do(("put-on-wheel", wanted, hub), gone, [("on", wanted, hub)])

    def _nuts_in_hand(self) -> str:
        for fact in sorted(self.facts):
            if fact[0] == "have" and fact[1].startswith("nut"):
                return fact[1]
        raise LookupError("there are no nuts in hand.")


def tyreworld(problem: Problem) -> list[Fact]:
    """Inflates wheels, serves one hub after the other, then tidies up as the goal asks."""
    garage = _Garage(problem)
    for fact in problem.goal:
        if fact[0] == "inflated" and not garage.holds(*fact):
            garage.inflate(fact[1])
    for hub in problem.of_type("hub"):
        garage.serve(hub)
    for fact in problem.goal:
        if fact[0] in ("in", "have") and not garage.holds(*fact):
            garage.get(fact[1])
            if fact[0] == "in":
                garage.open(fact[2])
                garage.do(("put-away", *fact[1:]), [("have", fact[1])], [fact])
    for fact in problem.goal:
        if fact[0] == "isopen":
            garage.open(fact[1])
        elif fact[0] == "closed" and not garage.holds(*fact):
            garage.do(("close", fact[1]), [("isopen", fact[1])], [fact])
    return garage.actions


EXPERTS: dict[str, Callable[[Problem], list[Fact]]] = {
    "gripper-strips": gripper,
    "blocksworld-4ops": blocks,
    "barman": barman,
    "tyreworld": tyreworld,
}
