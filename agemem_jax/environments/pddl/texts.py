"""Reads and writes PDDL as nested lists, and repairs what a strict parser refuses.

Facts, goals and ground actions are tuples of names everywhere in this package: the
predicate's or action's name, then its arguments, as in ("at", "ball1", "rooma").
"""

import dataclasses
import re

Fact = tuple[str, ...]
Expression = str | list


@dataclasses.dataclass(frozen=True)
class Problem:
    """A planning problem of a domain that is known by name.

    Attributes:
      name: of the problem.
      domain: name of its domain.
      objects: the type of each object, "object" where none is given; in the order written.
      init: the facts that hold at first.
      goal: the facts that shall hold at the end.
    """

    name: str
    domain: str
    objects: dict[str, str]
    init: frozenset[Fact]
    goal: tuple[Fact, ...]

    def of_type(self, *types: str) -> list[str]:
        """The objects of these types, in the order written."""
        return [name for name, of_type in self.objects.items() if of_type in types]


def parse(text: str, what: str = "The PDDL text") -> list:
    """The one bracketed expression that a PDDL text is, in lower case, without comments.

    Raises:
      ValueError: the brackets do not match, or there is more than one expression.
    """
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text).lower())
    stack: list[list] = [[]]
    for token in tokens:
        if token == "(":
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise ValueError(f"{what} closes a bracket that it did not open.")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise ValueError(f"{what} leaves {len(stack) - 1} brackets open.")
    if len(stack[0]) != 1 or stack[0][0][:1] != ["define"]:
        raise ValueError(f"{what} must be one expression that starts with (define.")
    return stack[0][0]


def unparse(expression: Expression) -> str:
    """The text of an expression."""
    if isinstance(expression, str):
        return expression
    return f"({' '.join(map(unparse, expression))})"


def typed_names(items: list) -> dict[str, str]:
    """The type of each name in a list such as `a b - ball c`."""
    types: dict[str, str] = {}
    waiting: list[str] = []
    rest = iter(items)
    for item in rest:
        if item == "-":
            kind = next(rest, "object")
            types.update(dict.fromkeys(waiting, unparse(kind)))
            waiting = []
        else:
            waiting.append(unparse(item))
    types.update(dict.fromkeys(waiting, "object"))
    return types


def read_problem(text: str, what: str = "The problem") -> Problem:
    """The problem that a PDDL text states.

    Raises:
      ValueError: the text is no problem, or its goal is no conjunction of facts.
    """
    sections = _sections(parse(text, what), what, ("problem", ":domain", ":objects", ":init"))
    goal = sections.get(":goal", [[]])[0]
    literals = goal[1:] if goal[:1] == ["and"] else [goal]
    if not literals or any(not _is_fact(literal) for literal in literals):
        raise ValueError(f"{what} must have a goal of facts joined by (and ...).")
    return Problem(
        name=sections["problem"][0],
        domain=sections[":domain"][0],
        objects=typed_names(sections[":objects"]),
        init=frozenset(tuple(fact) for fact in sections[":init"] if _is_fact(fact)),
        goal=tuple(tuple(literal) for literal in literals),
    )


def write_problem(problem: Problem) -> str:
    """The PDDL text of a problem, one fact a line."""
    objects = (
        name if kind == "object" else f"{name} - {kind}" for name, kind in problem.objects.items()
    )
    return "\n".join(
        [
            f"(define (problem {problem.name})",
            f"(:domain {problem.domain})",
            f"(:objects {' '.join(_untyped_last(objects))})",
            "(:init",
            *(unparse(list(fact)) for fact in sorted(problem.init)),
            ")",
            "(:goal (and",
            *(unparse(list(fact)) for fact in problem.goal),
            ")))",
            "",
        ]
    )


def repaired(domain_text: str, problem_text: str) -> tuple[str, str]:
    """The two texts as a strict parser takes them. Four things are put right:

    a domain with types that does not require `:typing`; constants that stand behind the
    predicates; constants that the problem declares once more; and a predicate whose arguments
    are declared in the other order than every action and problem has them (AgentBoard's
    tyreworld has `in ?container ?thing` and says `in ?thing ?container`).

    Raises:
      ValueError: a text is not a domain, or not a problem.
    """
    domain, problem = parse(domain_text, "The domain"), parse(problem_text, "The problem")
    sections = _sections(domain, "The domain", ("domain",))
    _sections(problem, "The problem", ("problem", ":domain"))
    required = sections.setdefault(":requirements", [":strips"])
    if ":types" in sections and ":typing" not in required and ":adl" not in required:
        required.append(":typing")
    actions = [part for part in domain[2:] if part[0] in (":action", ":durative-action")]
    if ":types" in sections and ":predicates" in sections:
        types = typed_names(sections[":types"])
        sections[":predicates"] = [
            _in_the_order_of_use(predicate, actions, types) for predicate in sections[":predicates"]
        ]
    first = (":requirements", ":types", ":constants", ":predicates")
    others = [part for part in domain[2:] if part[0] not in first]
    ordered = [[name, *sections[name]] for name in first if name in sections]
    constants = typed_names(sections.get(":constants", []))
    return (
        unparse([*domain[:2], *ordered, *others]),
        unparse([_without(part, constants) for part in problem]),
    )


def _sections(expression: list, what: str, needed: tuple[str, ...]) -> dict[str, list]:
    sections = {
        part[0]: part[1:]
        for part in expression[1:]
        if isinstance(part, list) and part and isinstance(part[0], str)
    }
    for name in needed:
        if name not in sections or not (sections[name] or name in (":objects", ":init")):
            raise ValueError(f"{what} has no ({name} ...).")
    return sections


def _is_fact(expression: Expression) -> bool:
    reserved = ("and", "not", "or", "forall", "exists", "when", "imply", "=")
    return (
        isinstance(expression, list)
        and bool(expression)
        and all(isinstance(item, str) for item in expression)
        and expression[0] not in reserved
    )


def _untyped_last(objects) -> list[str]:
    """Untyped names must not stand before a typed one, whose type they would take."""
    return sorted(objects, key=lambda item: " - " not in item)


def _without(part: Expression, constants: dict[str, str]) -> Expression:
    """The objects of a problem, less those that the domain has as constants."""
    if part[0] != ":objects" or not constants:
        return part
    kept = {name: kind for name, kind in typed_names(part[1:]).items() if name not in constants}
    return [":objects", *(item for name, kind in kept.items() for item in (name, "-", kind))]


def _in_the_order_of_use(predicate: list, actions: list, types: dict[str, str]) -> list:
    """A predicate of two arguments, turned round where all its uses have it the other way."""
    parameters = list(typed_names(predicate[1:]).items())
    if len(parameters) != 2:
        return predicate
    declared = tuple(kind for _, kind in parameters)
    uses = []
    for action in actions:
        known = typed_names(action[action.index(":parameters") + 1])
        for used in _uses(action, predicate[0]):
            if all(name in known for name in used):
                uses.append(tuple(known[name] for name in used))
    fits = [_is_a(use, declared, types) for use in uses]
    turned = [_is_a(use, declared[::-1], types) for use in uses]
    if not uses or any(fits) or not all(turned):
        return predicate
    (first, first_kind), (second, second_kind) = parameters
    return [predicate[0], first, "-", second_kind, second, "-", first_kind]


def _uses(expression: Expression, name: str):
    if isinstance(expression, list):
        if expression[:1] == [name] and all(isinstance(item, str) for item in expression):
            yield expression[1:]
        for part in expression:
            yield from _uses(part, name)


def _is_a(kinds: tuple[str, ...], wanted: tuple[str, ...], types: dict[str, str]) -> bool:
    def ancestors(kind: str) -> set[str]:
        found = {kind, "object"}
        while types.get(kind, kind) not in found:
            kind = types[kind]
            found.add(kind)
        return found

    return all(want in ancestors(kind) for kind, want in zip(kinds, wanted, strict=True))
