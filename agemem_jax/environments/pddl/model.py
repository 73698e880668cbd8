"""A planning problem that runs: parsed and simulated by unified-planning, listed by our own search.

unified-planning tries every grounding of every action to list what can be done, which takes
seconds in barman; here the parameters are bound by matching the preconditions against the facts
that hold, and only conditions of other kinds are left to its simulator.
"""

import dataclasses
import functools
import types
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agemem_jax.environments.pddl.texts import Fact, repaired

_Arguments = tuple[str, ...]


@functools.cache
def _library() -> types.SimpleNamespace:
    """The parts of unified-planning that are used; imported once, when they are needed.

    Raises:
      ImportError: it is not installed.
    """
    try:
        from unified_planning.engines.sequential_simulator import UPSequentialSimulator
        from unified_planning.exceptions import UPInvalidActionError
        from unified_planning.io import PDDLReader
    except ImportError as error:
        raise ImportError(
            "PDDL needs the package unified-planning: pip install -r requirements-benchmarks.txt."
        ) from error
    return types.SimpleNamespace(
        reader=PDDLReader, simulator=UPSequentialSimulator, invalid=UPInvalidActionError
    )


@dataclasses.dataclass(frozen=True)
class _Schema:
    """An action with its preconditions taken apart.

    Attributes:
      parameters: the objects that each parameter may be, by name, in order.
      conditions: facts with parameters (written "?name") that must hold.
      simple: whether `conditions` are all there is, so that nothing is left to be asked.
      changes: predicates that it can change.
      touched: the facts, with parameters, that it can change; None where they depend on more
        than the parameters.
    """

    parameters: dict[str, frozenset[str]]
    conditions: tuple[Fact, ...]
    simple: bool
    changes: frozenset[str]
    touched: tuple[Fact, ...] | None


class Model:
    """A problem and where it stands. States are values: `apply` returns a new one.

    Attributes:
      name: of the domain.
      objects: all names of objects and constants.
      goal: the facts of the goal, each with whether it shall hold.
      parameters: the names of each action's parameters.
      static: predicates that no action changes.
    """

    def __init__(self, domain_text: str, problem_text: str):
        """Raises ValueError where the texts are not a domain and a problem of it."""
        library = _library()
        domain_text, problem_text = repaired(domain_text, problem_text)
        try:
            # In its global environment: the simulator makes actions in no other.
            reader = library.reader()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._problem = reader.parse_problem_string(domain_text, problem_text)
                self._simulator = library.simulator(self._problem)
        except Exception as error:  # its parser raises several kinds, of several packages
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"unified-planning cannot read the PDDL texts: {reason}") from error
        self.name = self._name_of_domain(domain_text)
        self.objects = frozenset(o.name for o in self._problem.all_objects)
        self.goal = tuple(_literal(part) for part in _conjuncts(self._problem.goals))
        self._schemas = {action.name: self._schema(action) for action in self._problem.actions}
        self.parameters = {n: tuple(schema.parameters) for n, schema in self._schemas.items()}
        changed = frozenset().union(*(schema.changes for schema in self._schemas.values()))
        self._fluents = {_ground(node): node for node in self._problem.initial_values}
        self.static = frozenset(fact[0] for fact in self._fluents) - changed

    def start(self) -> "State":
        """The initial state."""
        state = self._simulator.get_initial_state()
        return State(state, frozenset(f for f, n in self._fluents.items() if _holds(state, n)))

    def apply(self, state: "State", action: Fact) -> "State | None":
        """The state after a ground action; None where it cannot be done, or there is none such."""
        schema = self._schemas.get(action[0])
        if schema is None or len(action) - 1 != len(schema.parameters):
            return None
        allowed = schema.parameters.values()
        if any(name not in names for name, names in zip(action[1:], allowed, strict=True)):
            return None
        try:
            after = self._simulator.apply(state.values, *self._instance(action))
        except _library().invalid:  # a condition fails that no action could ever make true
            return None
        if after is None:
            return None
        if schema.touched is None:
            touched = {fact for fact in self._fluents if fact[0] in schema.changes}
        else:
            bound = {f"?{p}": name for p, name in zip(schema.parameters, action[1:], strict=True)}
            touched = {tuple(bound.get(part, part) for part in fact) for fact in schema.touched}
        new = {fact for fact in touched if _holds(after, self._fluents[fact])}
        return State(after, (state.facts - touched) | new)

    def applicable(self, state: "State") -> list[Fact]:
        """All ground actions that can be done, in the order of the domain's actions."""
        by_name: dict[str, list[_Arguments]] = {}
        for fact in state.facts:
            by_name.setdefault(fact[0], []).append(fact[1:])
        found = []
        for name, schema in self._schemas.items():
            bindings = _bindings(schema, list(schema.conditions), {}, by_name)
            ground = {(name, *(b[p] for p in schema.parameters)) for b in bindings}
            if not schema.simple:
                ground = {
                    action
                    for action in ground
                    if self._simulator.is_applicable(state.values, *self._instance(action))
                }
            found += sorted(ground)
        return found

    def reached(self, state: "State") -> int:
        """How many facts of the goal hold, or do not where they shall not."""
        return sum((fact in state.facts) == wanted for fact, wanted in self.goal)

    def _instance(self, action: Fact) -> tuple[Any, tuple]:
        manager = self._problem.environment.expression_manager
        objects = (manager.ObjectExp(self._problem.object(name)) for name in action[1:])
        return self._problem.action(action[0]), tuple(objects)

    def _schema(self, action: Any) -> _Schema:
        parameters = {
            p.name: frozenset(o.name for o in self._problem.objects(p.type))
            for p in action.parameters
        }
        parts = _conjuncts(action.preconditions)
        conditions = tuple(_ground(part) for part in parts if _is_plain(part))
        changed = [effect.fluent for effect in action.effects]
        plain = all(_is_plain(e.fluent) and not e.forall for e in action.effects)
        return _Schema(
            parameters=parameters,
            conditions=conditions,
            simple=len(conditions) == len(parts),
            changes=frozenset(fluent.fluent().name for fluent in changed),
            touched=tuple(_ground(fluent) for fluent in changed) if plain else None,
        )

    @staticmethod
    def _name_of_domain(domain_text: str) -> str:
        # The problem that unified-planning makes has the name of the problem only.
        return domain_text.split("(domain ", 1)[1].split(")", 1)[0]


@dataclasses.dataclass(frozen=True)
class State:
    """Where a problem stands.

    Attributes:
      values: unified-planning's state.
      facts: all facts that hold in it.
    """

    values: Any
    facts: frozenset[Fact]


def _bindings(
    schema: _Schema,
    conditions: list[Fact],
    bound: dict[str, str],
    facts: dict[str, list[_Arguments]],
) -> Iterator[dict[str, str]]:
    """All ways to choose the parameters such that the conditions are among the facts."""
    if not conditions:
        free = [name for name in schema.parameters if name not in bound]
        if not free:
            yield bound
            return
        for name in schema.parameters[free[0]]:
            yield from _bindings(schema, [], {**bound, free[0]: name}, facts)
        return

    def choices(condition: Fact) -> tuple[int, int]:
        unbound = {a for a in condition[1:] if a[0] == "?" and a[1:] not in bound}
        return len(unbound), len(facts.get(condition[0], ()))

    first = min(conditions, key=choices)
    rest = [condition for condition in conditions if condition is not first]
    for arguments in facts.get(first[0], ()):
        more = _matched(schema, first[1:], arguments, bound)
        if more is not None:
            yield from _bindings(schema, rest, more, facts)


def _matched(
    schema: _Schema, wanted: Sequence[str], arguments: _Arguments, bound: dict[str, str]
) -> dict[str, str] | None:
    """`bound` with what makes a condition equal to a fact; None where nothing does."""
    more = dict(bound)
    for want, name in zip(wanted, arguments, strict=True):
        if want[0] != "?":
            if want != name:
                return None
        elif more.setdefault(want[1:], name) != name or name not in schema.parameters[want[1:]]:
            return None
    return more


def _conjuncts(expressions: Iterable[Any]) -> list[Any]:
    parts = []
    for expression in expressions:
        if expression.is_and():
            parts += _conjuncts(expression.args)
        elif not expression.is_true():
            parts.append(expression)
    return parts


def _is_plain(node: Any) -> bool:
    return node.is_fluent_exp() and all(
        a.is_parameter_exp() or a.is_object_exp() for a in node.args
    )


def _ground(node: Any) -> Fact:
    """A fluent's name and arguments; parameters keep a "?" in front."""
    arguments = (
        a.object().name if a.is_object_exp() else f"?{a.parameter().name}" for a in node.args
    )
    return (node.fluent().name, *arguments)


def _literal(node: Any) -> tuple[Fact, bool]:
    inner = node.arg(0) if node.is_not() else node
    if not _is_plain(inner):
        raise ValueError(f"The goal has the part {node}; it must be facts joined by (and ...).")
    return _ground(inner), not node.is_not()


def _holds(state: Any, node: Any) -> bool:
    return state.get_value(node).is_true()
