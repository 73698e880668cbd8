"""Facts, goals and ground actions as sentences, and sentences back as actions.

Each of AgentBoard's four domains has a table of templates; `{0}` is the first argument of
the fact or action. A domain without a table is told in PDDL's own form, `(pick ball1 rooma
left)`, and that form of an action is understood in every domain.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from agemem_jax.environments.pddl.texts import Fact, unparse

# Words that make no difference to what an action means.
_FILLERS = frozenset("the a an in into at of on onto from with to out using and".split())


@dataclasses.dataclass(frozen=True)
class Wording:
    """How a domain is told.

    Attributes:
      facts: a template by predicate, without full stop; "" for what goes without saying.
      actions: a template by action.
      forms: the actions with letters instead of objects, as instructions show them.
      changes_only: after an action only the facts that became true are told, as AgentBoard
        does where a state has many facts; "look around" tells all.
    """

    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    actions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    forms: str = ""
    changes_only: bool = False

    def fact(self, fact: Fact) -> str:
        """The sentence of a fact, without full stop; "" where it goes without saying."""
        template = self.facts.get(fact[0])
        return unparse(list(fact)) if template is None else template.format(*fact[1:])

    def tell(self, facts: Iterable[Fact]) -> str:
        """Facts as sentences, in a fixed order; such as differ in their first argument share one.

        `ball1 is in rooma` and `ball2 is in rooma` become `ball1 and ball2 are in rooma.`
        """
        order = {name: place for place, name in enumerate(self.facts)}
        groups: dict[tuple, list[Fact]] = {}
        for fact in sorted(facts, key=lambda f: (order.get(f[0], len(order)), f[0], natural(f))):
            template = self.facts.get(fact[0], "")
            shared = "{0}" in template and (template[:3] != "{0}" or template[:7] == "{0} is ")
            groups.setdefault((fact[0], fact[2:]) if shared else fact, []).append(fact)
        sentences = (self._together(group) for group in groups.values())
        return " ".join(f"{sentence}." for sentence in sentences if sentence)

    def _together(self, group: list[Fact]) -> str:
        if len(group) == 1:
            text = self.fact(group[0])
        else:
            template = self.facts[group[0][0]]
            if template.startswith("{0} is "):
                template = "{0} are " + template[7:]
            firsts = [fact[1] for fact in group]
            text = template.format(f"{', '.join(firsts[:-1])} and {firsts[-1]}", *group[0][2:])
        named = group[0][1:] and text.startswith(group[0][1])  # names keep their case
        return text if named else text[:1].upper() + text[1:]

    def goal(self, goal: Iterable[Fact]) -> str:
        """The sentence that states a goal."""
        return f"Goal: {self.tell(goal)}"

    def action(self, action: Fact) -> str:
        """The text of a ground action, as `step` takes it."""
        template = self.actions.get(action[0])
        return unparse(list(action)) if template is None else template.format(*action[1:])

    def how_to_act(self, parameters: Mapping[str, tuple[str, ...]]) -> str:
        """One sentence with all the forms that actions have.

        Args:
          parameters: the names of each action's parameters, for domains without a table.
        """
        forms = self.forms or "; ".join(
            unparse([name, *names]) for name, names in parameters.items()
        )
        look = ' "look around" tells all that holds.' if self.changes_only else ""
        return f"Actions: {forms}.{look}"

    def keys(self, action: Fact, names: frozenset[str]) -> tuple[str, str]:
        """What `key` makes of the two texts of an action: ours and PDDL's."""
        return key(self.action(action), names), key(" ".join(action), names)


def key(text: str, names: frozenset[str]) -> str:
    """A text without what makes no difference: case, punctuation, spaces, small words.

    Args:
      text: an action as somebody wrote it.
      names: of objects and actions; they are never taken for small words.
    """
    words = re.findall(r"[a-z0-9_-]+", text.lower())
    return " ".join(word for word in words if word in names or word not in _FILLERS)


def natural(fact: Fact) -> tuple:
    """A key that sorts shot2 before shot10."""

    def parts(word: str) -> tuple:
        split = re.split(r"(\d+)", word)
        return tuple((int(part), "") if part.isdigit() else (-1, part) for part in split)

    return tuple(parts(word) for word in fact)


def wording_of(domain: str) -> Wording:
    """The wording of a domain by its PDDL name; PDDL's own form where it has none here."""
    return WORDINGS.get(domain, Wording())


WORDINGS = {
    "gripper-strips": Wording(
        facts={
            "room": "the rooms are {0}",
            "ball": "",
            "gripper": "",
            "at-robby": "you are in {0}",
            "at": "{0} is in {1}",
            "carry": "you hold {0} in {1}",
            "free": "free grippers: {0}",
        },
        actions={
            "move": "move from {0} to {1}",
            "pick": "pick up {0} in {1} with {2}",
            "drop": "drop {0} in {1} from {2}",
        },
        forms="move from ROOM to ROOM; pick up BALL in ROOM with GRIPPER; "
        "drop BALL in ROOM from GRIPPER",
    ),
    "blocksworld-4ops": Wording(
        facts={
            "on-table": "{0} is on the table",
            "on": "{0} is on {1}",
            "clear": "{0} is clear",
            "holding": "you hold {0}",
            "arm-empty": "your hand is empty",
        },
        actions={
            "pickup": "pick up {0}",
            "putdown": "put down {0}",
            "stack": "stack {0} on {1}",
            "unstack": "unstack {0} from {1}",
        },
        forms="pick up B (from the table); put down B (on the table); stack B on C; "
        "unstack B from C",
    ),
    "barman": Wording(
        facts={
            "ontable": "{0} is on the table",
            "holding": "you hold {1} in {0}",
            "handempty": "free hands: {0}",
            "contains": "{0} contains {1}",
            "empty": "{0} is empty",
            "clean": "{0} is clean",
            "used": "{0} was used for {1}",
            "shaker-level": "{0} is at level {1}",
            "unshaked": "{0} is unshaken",
            "shaked": "{0} is shaken",
            "shaker-empty-level": "level {1} of {0} means empty",
            "next": "level {0} is just below {1}",
            "dispenses": "{0} gives {1}",
            "cocktail-part1": "part 1 of {0} is {1}",
            "cocktail-part2": "part 2 of {0} is {1}",
        },
        actions={
            "grasp": "grasp {1} with {0}",
            "leave": "put down {1} with {0}",
            "fill-shot": "fill {0} with {1} from {4}, {2} holding, {3} free",
            "refill-shot": "refill {0} with {1} from {4}, {2} holding, {3} free",
            "empty-shot": "empty {1} of {2} with {0}",
            "clean-shot": "clean {0} of {1}, {2} holding, {3} free",
            "pour-shot-to-clean-shaker": "pour {1} from {0} into clean {2} with {3}, {4} to {5}",
            "pour-shot-to-used-shaker": "pour {1} from {0} into used {2} with {3}, {4} to {5}",
            "empty-shaker": "empty {1} of {2} with {0}, {3} to {4}",
            "clean-shaker": "clean {2}, {0} holding, {1} free",
            "shake": "shake {0} from {1} and {2} in {3}, {4} holding, {5} free",
            "pour-shaker-to-shot": "pour {0} from {3} into {1} with {2}, {4} to {5}",
        },
        forms="grasp X with HAND; put down X with HAND; "
        "fill SHOT with INGREDIENT from DISPENSER, HAND holding, HAND free; "
        "refill SHOT with INGREDIENT from DISPENSER, HAND holding, HAND free; "
        "empty SHOT of DRINK with HAND; clean SHOT of DRINK, HAND holding, HAND free; "
        "pour INGREDIENT from SHOT into clean SHAKER with HAND, LEVEL to LEVEL; "
        "pour INGREDIENT from SHOT into used SHAKER with HAND, LEVEL to LEVEL; "
        "empty SHAKER of COCKTAIL with HAND, LEVEL to LEVEL; "
        "clean SHAKER, HAND holding, HAND free; "
        "shake COCKTAIL from INGREDIENT and INGREDIENT in SHAKER, HAND holding, HAND free; "
        "pour COCKTAIL from SHAKER into SHOT with HAND, LEVEL to LEVEL",
        changes_only=True,
    ),
    "tyreworld": Wording(
        facts={
            "have": "you have {0}",
            "isopen": "{0} is open",
            "closed": "{0} is closed",
            "unlocked": "{0} is unlocked",
            "in": "{0} is in {1}",
            "on": "{0} is on {1}",
            "loose": "{0} is loose on {1}",
            "tight": "{0} is tight on {1}",
            "on-ground": "{0} is on the ground",
            "not-on-ground": "{0} is jacked up",
            "fastened": "{0} is fastened",
            "unfastened": "{0} is unfastened",
            "free": "{0} is without wheel",
            "inflated": "{0} is inflated",
            "not-inflated": "{0} is not inflated",
            "intact": "{0} is intact",
        },
        actions={
            "open": "open {0}",
            "close": "close {0}",
            "fetch": "fetch {0} from {1}",
            "put-away": "put {0} into {1}",
            "loosen": "loosen {0} on {1}",
            "tighten": "tighten {0} on {1}",
            "jack-up": "jack up {0}",
            "jack-down": "jack down {0}",
            "undo": "undo {0} on {1}",
            "do-up": "do up {0} on {1}",
            "remove-wheel": "remove {0} from {1}",
            "put-on-wheel": "put {0} on {1}",
            "inflate": "inflate {0}",
        },
        forms="open BOOT; close BOOT; fetch THING from BOOT; put THING into BOOT; "
        "loosen NUTS on HUB; tighten NUTS on HUB; jack up HUB; jack down HUB; undo NUTS on HUB; "
        "do up NUTS on HUB; remove WHEEL from HUB; put WHEEL on HUB; inflate WHEEL",
        changes_only=True,
    ),
}
