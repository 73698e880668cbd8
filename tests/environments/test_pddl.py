"""Planning problems as an agent plays them: what is said, what counts, what is refused."""

import importlib.util
import sys

import pytest

from agemem_jax.environments.pddl import model
from agemem_jax.environments.pddl.environment import PDDL
from agemem_jax.environments.pddl.texts import Problem, write_problem
from agemem_jax.environments.registry import ENVIRONMENTS
from agemem_jax.tasks.pddl_domains import DOMAIN_TEXTS
from tests.environments.pddl_cases import environment, needs_data, official

needs_simulator = pytest.mark.skipif(
    importlib.util.find_spec("unified_planning") is None,
    reason="unified-planning is not installed (requirements-benchmarks.txt).",
)

BALLS = Problem(
    name="two-balls",
    domain="gripper-strips",
    objects=dict.fromkeys(("rooma", "roomb", "ball1", "ball2", "left", "right"), "object"),
    init=frozenset(
        [
            ("room", "rooma"), ("room", "roomb"), ("ball", "ball1"), ("ball", "ball2"),
            ("gripper", "left"), ("gripper", "right"), ("free", "left"), ("free", "right"),
            ("at-robby", "rooma"), ("at", "ball1", "rooma"), ("at", "ball2", "rooma"),
        ]
    ),
    goal=(("at", "ball1", "roomb"), ("at", "ball2", "roomb")),
)  # fmt: skip

# Negation, equality, a condition on an effect, an effect on all objects, no table of words.
LAMPS_DOMAIN = """
(define (domain lamps)
  (:requirements :strips :negative-preconditions :equality :conditional-effects)
  (:predicates (lit ?x) (broken ?x) (near ?x ?y))
  (:action swap :parameters (?a ?b)
    :precondition (and (near ?a ?b) (not (= ?a ?b)) (lit ?a) (not (lit ?b)))
    :effect (and (not (lit ?a)) (when (not (broken ?b)) (lit ?b))))
  (:action blackout :parameters ()
    :effect (forall (?x) (not (lit ?x)))))
"""
LAMPS_PROBLEM = """
(define (problem three) (:domain lamps) (:objects a b c)
  (:init (lit a) (broken c) (near a a) (near a b) (near b a) (near b c))
  (:goal (and (lit b) (not (lit a)))))
"""


def balls() -> PDDL:
    played = PDDL(domain_text=DOMAIN_TEXTS["gripper"], problem_text=write_problem(BALLS))
    played.reset(0)
    return played


def test_the_registry_builds_it_from_its_options():
    options = {"domain_text": DOMAIN_TEXTS["gripper"], "problem_text": write_problem(BALLS)}
    assert isinstance(ENVIRONMENTS.build("pddl", options), PDDL)


@needs_simulator
def test_what_holds_the_goal_and_the_actions_are_told_in_sentences():
    played = PDDL(domain_text=DOMAIN_TEXTS["gripper"], problem_text=write_problem(BALLS))
    seen = played.reset(0)
    assert seen.text == (
        "The rooms are rooma and roomb. You are in rooma. ball1 and ball2 are in rooma. "
        "Free grippers: left and right."
    )
    assert seen.instruction.startswith("Goal: ball1 and ball2 are in roomb. Actions: move from")
    assert played.actions() == [
        "move from rooma to roomb",
        "pick up ball1 in rooma with left",
        "pick up ball1 in rooma with right",
        "pick up ball2 in rooma with left",
        "pick up ball2 in rooma with right",
    ]


@needs_simulator
def test_the_goal_is_left_out_where_the_task_tells_it():
    problem = write_problem(BALLS)
    played = PDDL(domain_text=DOMAIN_TEXTS["gripper"], problem_text=problem, tell_goal=False)
    assert played.reset(0).instruction.startswith("Actions: move from ROOM to ROOM;")


@needs_simulator
@pytest.mark.parametrize(
    "action",
    [
        "pick up ball1 in rooma with left",
        "  Pick up the ball1 at  rooma with LEFT. ",
        "pick(ball1, rooma, left)",
        "(pick ball1 rooma left)",
        "pick ball1 rooma left",
    ],
)
def test_an_action_is_understood_in_our_words_and_in_those_of_pddl(action):
    outcome = balls().step(action)
    assert outcome.valid
    assert "You hold ball1 in left." in outcome.text


@needs_simulator
@pytest.mark.parametrize(
    "action",
    [
        "",
        "dance",
        "pick up ball1",
        "pick up ball3 in rooma with left",
        "pick up ball1 in roomb with left",
        "drop ball1 in rooma from left",
        "move from rooma to rooma",
        "pick(left, rooma, ball1)",
    ],
)
def test_what_cannot_be_done_or_changes_nothing_is_answered_and_leaves_all_as_it_is(action):
    played = balls()
    before = played.step("look around").text
    outcome = played.step(action)
    assert not outcome.valid
    assert not outcome.done
    assert outcome.text == "Nothing happens: this cannot be done now."
    assert played.step("Look around.").text == before


@needs_simulator
def test_progress_is_the_largest_share_of_the_goal_that_held():
    played = balls()
    progress = [
        played.step(action).progress
        for action in (
            "pick up ball1 in rooma with left",
            "move from rooma to roomb",
            "drop ball1 in roomb from left",
            "pick up ball1 in roomb with left",
            "nonsense",
        )
    ]
    assert progress == [0.0, 0.0, 0.5, 0.5, 0.5]


@needs_simulator
def test_nothing_is_credited_before_the_first_action_that_changes_something():
    met = BALLS.init - {("at", "ball1", "rooma")} | {("at", "ball1", "roomb")}
    problem = Problem(BALLS.name, BALLS.domain, BALLS.objects, met, BALLS.goal)
    played = PDDL(domain_text=DOMAIN_TEXTS["gripper"], problem_text=write_problem(problem))
    played.reset(0)
    assert played.step("look around").progress == 0.0
    assert played.step("nonsense").progress == 0.0
    assert played.step("move from rooma to roomb").progress == 0.5


@needs_simulator
def test_the_goal_ends_the_episode_and_the_end_stays():
    played = balls()
    plan = played.demonstration()
    outcomes = [played.step(action) for action in plan]
    assert [outcome.done for outcome in outcomes] == [False] * (len(plan) - 1) + [True]
    assert outcomes[-1].won and outcomes[-1].progress == 1.0
    assert outcomes[-1].text.endswith("The goal is reached.")
    assert played.step("move from roomb to rooma") == outcomes[-1]
    assert played.actions() == []


@needs_simulator
def test_a_second_reset_starts_again():
    played = balls()
    first = played.reset(0)
    played.step("move from rooma to roomb")
    assert played.reset(1) == first
    assert played.step("look around").progress == 0.0


@needs_simulator
def test_a_domain_without_words_is_told_in_pddl_and_simulated_with_all_that_it_uses():
    played = PDDL(domain_text=LAMPS_DOMAIN, problem_text=LAMPS_PROBLEM)
    seen = played.reset(0)
    assert "(lit a)." in seen.text
    assert seen.instruction == ("Goal: (lit b). Not so: (lit a). Actions: (swap a b); (blackout).")
    assert played.actions() == ["(swap a b)", "(blackout)"]
    with pytest.raises(LookupError, match="no demonstration"):
        played.demonstration()
    outcome = played.step("swap(a, b)")
    assert outcome.won and "(lit b)." in outcome.text


@needs_simulator
def test_equality_and_negation_are_asked_of_the_simulator():
    simulated = model.Model(LAMPS_DOMAIN, LAMPS_PROBLEM)
    start = simulated.start()
    assert simulated.applicable(start) == [("swap", "a", "b"), ("blackout",)]  # not (swap a a)
    lit = LAMPS_PROBLEM.replace("(lit a)", "(lit a) (lit b)", 1)
    both = model.Model(LAMPS_DOMAIN, lit)
    assert both.applicable(both.start()) == [("swap", "b", "c"), ("blackout",)]


@needs_simulator
def test_conditions_on_effects_and_effects_on_all_objects_are_followed():
    simulated = model.Model(LAMPS_DOMAIN, LAMPS_PROBLEM.replace("(lit a)", "(lit b)", 1))
    start = simulated.start()
    assert simulated.applicable(start) == [("swap", "b", "a"), ("swap", "b", "c"), ("blackout",)]
    lit = {
        action: {fact for fact in simulated.apply(start, action).facts if fact[0] == "lit"}
        for action in simulated.applicable(start)
    }
    assert lit == {
        ("swap", "b", "a"): {("lit", "a")},
        ("swap", "b", "c"): set(),
        ("blackout",): set(),
    }
    assert simulated.apply(start, ("swap", "a", "b")) is None
    assert simulated.apply(start, ("swap", "a")) is None
    assert simulated.apply(start, ("fly", "a")) is None


@needs_simulator
def test_a_problem_whose_start_the_rules_do_not_fit_has_no_demonstration():
    held = BALLS.init - {("at", "ball1", "rooma"), ("gripper", "left")}
    problem = Problem(BALLS.name, BALLS.domain, BALLS.objects, held, BALLS.goal)
    played = PDDL(domain_text=DOMAIN_TEXTS["gripper"], problem_text=write_problem(problem))
    played.reset(0)
    with pytest.raises(LookupError, match="no demonstration"):
        played.demonstration()


def test_either_the_path_or_the_text_is_taken(tmp_path):
    with pytest.raises(ValueError, match="either domain_file or domain_text; it has both or none"):
        PDDL(problem_text="(define)")
    with pytest.raises(ValueError, match="either problem_file or problem_text"):
        PDDL(domain_text="(define)", problem_text="(define)", problem_file="a")
    with pytest.raises(
        ValueError, match="domain_file is .*nowhere.*, which cannot be read: No such"
    ):
        PDDL(domain_file=str(tmp_path / "nowhere"), problem_text="(define)")


@needs_simulator
def test_a_text_that_is_wrong_is_told_in_one_sentence():
    problem = write_problem(BALLS).replace("(at ball1 rooma)", "(under ball1 rooma)")
    played = PDDL(domain_text=DOMAIN_TEXTS["gripper"], problem_text=problem)
    with pytest.raises(ValueError, match="unified-planning cannot read the PDDL texts: .*under"):
        played.reset(0)


def test_acting_before_the_reset_is_refused():
    played = PDDL(domain_text=DOMAIN_TEXTS["gripper"], problem_text=write_problem(BALLS))
    with pytest.raises(RuntimeError, match="reset first"):
        played.step("look around")


def test_a_missing_simulator_is_told_with_the_command_that_brings_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("unified_planning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "unified_planning", None)
    model._library.cache_clear()
    problem = write_problem(BALLS)
    with pytest.raises(ImportError, match="pip install -r requirements-benchmarks.txt"):
        model.Model(DOMAIN_TEXTS["gripper"], problem)


@needs_simulator
@needs_data
def test_every_problem_loads_and_its_demonstration_reaches_the_goal_silently(capfd):
    for domain, name in official(spread=2):
        played = environment(domain, name)
        outcomes = [played.step(action) for action in played.demonstration()]
        assert all(outcome.valid for outcome in outcomes), (domain, name)
        assert [o.won for o in outcomes] == [False] * (len(outcomes) - 1) + [True], (domain, name)
    assert capfd.readouterr() == ("", "")


@needs_simulator
@needs_data
def test_no_two_actions_of_a_state_have_a_text_that_means_both():
    for domain, name in official(spread=1):
        played = environment(domain, name)
        for action in played.demonstration():
            listed = played.actions()
            assert len(set(listed)) == len(listed)
            assert action in listed, (domain, name)
            played.step(action)


@needs_simulator
@needs_data
def test_where_a_state_is_large_only_what_became_true_is_told():
    played = environment("barman", "p01.pddl")
    assert played.step("grasp shot1 with left").text == "You hold shot1 in left."
    everything = played.step("look around").text
    assert "You hold shot1 in left." in everything and "dispenser1 gives ingredient1." in everything
