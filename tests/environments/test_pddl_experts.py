"""The rules that solve planning problems, where problems are not as usual."""

import dataclasses

import numpy as np
import pytest

from agemem_jax.environments.pddl import experts
from agemem_jax.tasks import pddl_problems


def problem(of: str, **changes):
    solved = pddl_problems.generate(of, "small", np.random.default_rng(0))
    return dataclasses.replace(solved.problem, **changes)


def test_what_holds_already_needs_no_action():
    for domain in ("gripper", "blockworld"):
        done = problem(domain)
        kept = tuple(fact for fact in sorted(done.init) if fact[0] in ("at", "on"))
        assert kept
        assert experts.plan(dataclasses.replace(done, goal=kept)) == []


def test_a_shaker_serves_two_glasses():
    goal = (("contains", "shot1", "cocktail1"), ("contains", "shot2", "cocktail1"))
    names = [action[0] for action in experts.plan(problem("barman", goal=goal))]
    assert names.count("shake") == 1
    assert names[-2:] == ["pour-shaker-to-shot", "pour-shaker-to-shot"]


def test_the_jack_is_taken_from_under_the_hub_before():
    drawn = (
        pddl_problems.generate("tyreworld", "medium", np.random.default_rng(i)) for i in range(99)
    )
    two = next(solved.problem for solved in drawn if len(solved.problem.of_type("hub")) == 2)

    def served(goal):
        return [action[0] for action in experts.plan(dataclasses.replace(two, goal=goal))]

    one, both = (("on", "r1", "the-hub1"),), (("on", "r1", "the-hub1"), ("on", "r2", "the-hub2"))
    assert served(one).count("jack-down") == 0
    assert served(both).count("jack-down") == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"domain": "chess"}, "not for 'chess'"),
        ({"init": frozenset([("at-robby", "rooma"), ("at", "ball1", "rooma")])}, "no free gripper"),
        ({"init": frozenset()}, "do not fit"),
    ],
)
def test_where_the_rules_find_no_way_they_say_so(changed, message):
    with pytest.raises(LookupError, match=message):
        objects = dict.fromkeys(("rooma", "roomb", "ball1", "left"), "object")
        goal = (("at", "ball1", "roomb"),)
        experts.plan(problem("gripper", objects=objects, goal=goal, **changed))


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ((("on", "b1", "b2"), ("clear", "b2")), "contradicts itself"),
        ((("on", "b1", "b2"), ("on", "b2", "b1")), "nearer to the goal"),
    ],
)
def test_a_goal_of_blocks_that_cannot_be_is_told(goal, message):
    with pytest.raises(LookupError, match=message):
        experts.plan(problem("blockworld", goal=goal))
