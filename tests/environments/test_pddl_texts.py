"""PDDL as text: read, written, repaired."""

import pytest

from agemem_jax.environments.pddl.texts import (
    Problem,
    parse,
    read_problem,
    repaired,
    unparse,
    write_problem,
)
from agemem_jax.environments.pddl.wording import Wording, key, natural

TURNED = """
(define (domain boxes) ; in is declared the wrong way round, and needs are out of order
  (:types Thing box - object ball - thing)
  (:predicates (in ?x - box ?y - thing) (near ?x - box ?y - box) (open ?x - box))
  (:constants red - ball)
  (:action take :parameters (?x - ball ?y - box)
    :precondition (and (in ?x ?y) (open ?y)) :effect (not (in ?x ?y))))
"""
BOXES = """
(define (problem one) (:domain boxes) (:objects red blue - ball crate - box)
  (:init (in red crate) (open crate)) (:goal (in blue crate)))
"""


def test_comments_case_and_spaces_make_no_difference():
    assert parse("(DEFINE (a  b) ; c (\n)") == ["define", ["a", "b"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(define (a)", "leaves 1 brackets open"),
        ("(define (a)))", "closes a bracket that it did not open"),
        ("(define) (define)", "one expression that starts with"),
        ("", "one expression that starts with"),
    ],
)
def test_brackets_that_do_not_match_are_told(text, message):
    with pytest.raises(ValueError, match=f"The domain .*{message}"):
        parse(text, "The domain")


def test_a_problem_is_read_as_it_was_written():
    problem = Problem(
        name="two",
        domain="boxes",
        objects={"b": "ball", "c": "box", "d": "object", "e": "ball"},
        init=frozenset([("in", "b", "c"), ("open", "c"), ("ready",)]),
        goal=(("in", "e", "c"), ("ready",)),
    )
    read = read_problem(write_problem(problem))
    assert read == problem
    assert read.of_type("ball") == ["b", "e"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(define (domain a))", r"no \(problem \.\.\.\)"),
        ("(define (problem a) (:domain b) (:objects) (:init))", "goal of facts"),
        ("(define (problem a) (:domain b) (:objects) (:init) (:goal (and)))", "goal of facts"),
        (
            "(define (problem a) (:domain b) (:objects c) (:init) (:goal (not (in c))))",
            "goal of facts",
        ),
    ],
)
def test_what_is_no_problem_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        read_problem(text)


def test_typing_constants_and_turned_arguments_are_repaired():
    domain, problem = repaired(TURNED, BOXES)
    parts = parse(domain)
    assert [part[0] for part in parts[1:]] == [
        "domain", ":requirements", ":types", ":constants", ":predicates", ":action",
    ]  # fmt: skip
    assert ":typing" in parts[2]
    assert parts[5][1] == ["in", "?x", "-", "thing", "?y", "-", "box"]
    assert "(:objects blue - ball crate - box)" in problem


def test_what_is_right_stays_as_it_is():
    domain, problem = repaired(TURNED, BOXES)
    assert repaired(domain, problem) == (domain, problem)
    mixed = TURNED.replace("(open ?y)", "(near ?y ?y)").replace("(in ?x ?y)", "(in ?y ?x)")
    assert "(in ?x - box ?y - thing)" in unparse(parse(repaired(mixed, BOXES)[0]))


def test_facts_that_differ_in_their_first_argument_share_a_sentence():
    wording = Wording(
        facts={"at": "{0} is in {1}", "room": "the rooms are {0}", "eats": "{0} eats"}
    )
    facts = [("eats", "a"), ("eats", "b"), ("at", "b10", "x"), ("at", "b2", "x"), ("at", "b1", "y")]
    facts += [("room", "y"), ("room", "x"), ("odd", "z")]
    assert wording.tell(facts) == (
        "b1 is in y. b2 and b10 are in x. The rooms are x and y. a eats. b eats. (odd z)."
    )


def test_small_words_matter_where_they_are_names():
    assert key("Stack a on B!", frozenset({"a", "b"})) == "stack a b"
    assert key("Stack a on B!", frozenset({"b"})) == "stack b"


def test_numbers_in_names_sort_as_numbers():
    names = [("a", "shot10"), ("a", "shot2"), ("a", "shot"), ("b",)]
    assert sorted(names, key=natural) == [("a", "shot"), ("a", "shot2"), ("a", "shot10"), ("b",)]
