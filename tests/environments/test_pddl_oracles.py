"""Planning problems against two oracles: pddlgym, and unified-planning's own listing."""

import contextlib
import io
import itertools
import random

import pytest

from agemem_jax.environments.pddl import experts
from agemem_jax.environments.pddl.model import Model
from agemem_jax.environments.pddl.texts import read_problem
from tests.environments.pddl_cases import ALL, DATA, DOMAINS, needs_data, official

pytest.importorskip(
    "unified_planning", reason="unified-planning is not installed (requirements-benchmarks.txt)."
)

_WALKS = 3 if ALL else 1
_STEPS = 25 if ALL else 10


def texts(domain: str, name: str) -> tuple[str, str]:
    return (DATA / f"{domain}.pddl").read_text(), (DATA / domain / name).read_text()


@pytest.fixture(scope="module")
def pddlgym():
    with contextlib.redirect_stderr(io.StringIO()):  # gym tells everybody that it is old
        return pytest.importorskip(
            "pddlgym.core",
            reason="pddlgym 0.0.7 is not installed; it is an oracle only, as it needs the old gym.",
        )


def _facts(literals) -> set[tuple[str, ...]]:
    return {(lit.predicate.name, *(v.name for v in lit.variables)) for lit in literals}


def _is_one_for_pddlgym(action) -> bool:
    """pddlgym gives different parameters different objects; such others change nothing here."""
    return len(set(action)) == len(action)


@needs_data
@pytest.mark.parametrize("domain", DOMAINS)
def test_states_and_possible_actions_are_those_of_pddlgym(pddlgym, domain):
    env = pddlgym.PDDLEnv(
        str(DATA / f"{domain}.pddl"),
        str(DATA / domain),
        operators_as_actions=True,
        dynamic_action_space=True,
        raise_error_on_invalid_action=True,
    )
    names = [problem.problem_fname.rsplit("/", 1)[-1] for problem in env.problems]
    for case, name in official(spread=2):
        if case != domain:
            continue
        env.fix_problem_index(names.index(name))
        ours = Model(*texts(domain, name))
        plan = experts.plan(read_problem(texts(domain, name)[1]))
        for walk in (plan, *(random.Random(f"{name} {i}") for i in range(_WALKS))):
            _same_walk(env, ours, walk)


def _same_walk(env, ours: Model, walk) -> None:
    """Follows a plan, or goes at random, in both; compares before and after every step."""
    theirs, _ = env.reset()
    state = ours.start()
    for step in range(len(walk) if isinstance(walk, list) else _STEPS):
        assert _facts(theirs.literals) == state.facts
        literals = {
            next(iter(_facts([literal]))): literal
            for literal in env.action_space.all_ground_literals(theirs)
        }
        possible = ours.applicable(state)
        assert set(literals) == set(filter(_is_one_for_pddlgym, possible))
        for other in itertools.filterfalse(_is_one_for_pddlgym, possible):
            assert ours.apply(state, other).facts == state.facts
        if not literals:
            return
        action = walk[step] if isinstance(walk, list) else walk.choice(sorted(literals))
        theirs, _, done, _, _ = env.step(literals[action])
        state = ours.apply(state, action)
        assert done == (ours.reached(state) == len(ours.goal))
    assert _facts(theirs.literals) == state.facts


@needs_data
@pytest.mark.parametrize(
    ("domain", "name"),
    [("gripper", "prob06.pddl"), ("blockworld", "problem9.pddl"), ("tyreworld", "p05.pddl")],
)
def test_possible_actions_are_those_that_unified_planning_lists(domain, name):
    ours = Model(*texts(domain, name))
    rng = random.Random(name)
    state = ours.start()
    for _ in range(4):
        listed = {
            (action.name, *(parameter.object().name for parameter in parameters))
            for action, parameters in ours._simulator.get_applicable_actions(state.values)
        }
        possible = ours.applicable(state)
        assert set(possible) == listed
        state = ours.apply(state, rng.choice(possible))


@needs_data
def test_unified_planning_can_do_what_is_listed_and_nothing_else():
    """In barman, where its listing takes seconds: a sample of all groundings is asked instead."""
    ours = Model(*texts("barman", "p01.pddl"))
    rng = random.Random(0)
    state = ours.start()
    for action in experts.plan(read_problem(texts("barman", "p01.pddl")[1])):
        possible = set(ours.applicable(state))
        for name, schema in ours._schemas.items():
            choices = [sorted(names) for names in schema.parameters.values()]
            asked = {(name, *map(rng.choice, choices)) for _ in range(8)}
            for other in asked | {listed for listed in possible if listed[0] == name}:
                can = ours._simulator.is_applicable(state.values, *ours._instance(other))
                assert can == (other in possible), other
        state = ours.apply(state, action)
