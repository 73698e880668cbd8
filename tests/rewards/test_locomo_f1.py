"""LoCoMo's F1 is that of its official script: by a table of its values, and by its rules."""

import importlib.util
import sys

import pytest

from agemem_jax.rewards import locomo_f1

needs_tools = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("nltk", "regex")),
    reason="nltk and regex are not installed (requirements-benchmarks.txt)",
)
CATEGORIES = ("single-hop", "multi-hop", "temporal", "open-domain", "adversarial")

# (answer, expected answer, category, what the official script gives)
OFFICIAL = [
    ("a painting", "The painting!", "single-hop", 1.0),
    ("paintings and drawings", "painting, drawing", "single-hop", 1.0),
    ("she runs every morning", "running in the mornings", "single-hop", 0.5714285714285715),
    ("universities", "University", "single-hop", 1.0),
    ("happily", "happy", "single-hop", 0.0),
    ("the and a", "an", "single-hop", 0.0),
    ("", "", "single-hop", 0.0),
    ("", "mill", "single-hop", 0.0),
    ("mill", "", "single-hop", 0.0),
    ("1,000 euros", "1000 euro", "single-hop", 1.0),
    ("isn't", "isnt", "single-hop", 1.0),
    ("well-known", "well known", "single-hop", 0.0),
    ("Sand and sea", "sand sea", "single-hop", 1.0),
    ("sand—and—sea", "sand sea", "single-hop", 0.0),
    ("sand—and—sea", "sand— —sea", "single-hop", 1.0),
    ("“and”", "“ ”", "single-hop", 1.0),
    ("one one two", "one two two", "single-hop", 0.6666666666666666),
    ("generously generous", "generate", "single-hop", 0.6666666666666666),
    ("dying", "dies", "single-hop", 1.0),
    ("skies sky", "sky sky", "single-hop", 1.0),
    ("Zoë's dog", "Zoes dogs", "single-hop", 0.5),
    ("a\u0301b", "\u0301b", "single-hop", 0.0),
    ("a\u0301 b", "\u0301 b", "single-hop", 0.5),
    ("and\u200bsea", "\u200bsea", "single-hop", 1.0),
    ("a²", "²", "single-hop", 1.0),
    ("yes", "yes", "single-hop", 1.0),
    ("Yes, she did", "yes", "single-hop", 0.5),
    ("no information available", "not mentioned", "single-hop", 0.0),
    ("straße", "strasse", "single-hop", 0.0),
    ("İstanbul", "istanbul", "single-hop", 0.0),
    ("relational relations", "relate", "single-hop", 0.6666666666666666),
    ("abc; def", "abc", "single-hop", 0.6666666666666666),
    ("abc, def", "def, abc", "single-hop", 1.0),
    ("7 May 2023", "7 May 2023", "temporal", 1.0),
    ("May 7, 2023", "7 May 2023", "temporal", 1.0),
    ("7 May", "7 May 2023", "temporal", 0.8),
    ("in 2022", "2022", "temporal", 0.6666666666666666),
    ("the week before 9 June 2023", "The week of 9 June 2023", "temporal", 0.8000000000000002),
    ("June, 2023", "June 2023", "temporal", 1.0),
    ("yesterday", "7 May 2023", "temporal", 0.0),
    ("7th May 2023", "7 May 2023", "temporal", 0.6666666666666666),
    ("beach, mountains, forest", "mountains, the beach", "multi-hop", 1.0),
    ("beach", "mountains, beach", "multi-hop", 0.5),
    ("the beach and the mountains", "mountains, beach", "multi-hop", 0.6666666666666666),
    ("mountain, mountain", "mountains", "multi-hop", 1.0),
    ("", "mountains, beach", "multi-hop", 0.0),
    ("beach,", "beach", "multi-hop", 1.0),
    ("beach", "beach,", "multi-hop", 0.5),
    ("camping trips", "camping trip, hiking", "multi-hop", 0.5),
    ("running , pottery", "pottery, running, swimming", "multi-hop", 0.6666666666666666),
    ("red; blue", "red, blue", "multi-hop", 0.6666666666666666),
    ("1,000", "1,000", "multi-hop", 1.0),
    ("two cats, a dog", "dog, two cats, three fish, one horse", "multi-hop", 0.5),
    ("Likely no", "Likely no; she wants to travel", "open-domain", 1.0),
    (
        "no; she wants to travel",
        "Likely no; she wants to travel",
        "open-domain",
        0.28571428571428575,
    ),
    ("yes", "Yes;", "open-domain", 1.0),
    ("she travels", ";she travels", "open-domain", 0.0),
    ("National park", "National parks, forests; outdoors", "open-domain", 0.8),
    ("a; b", "a; c", "open-domain", 0.0),
    ("nurse, doctor", "doctor", "open-domain", 0.6666666666666666),
    ("Not mentioned in the conversation", "red", "adversarial", 1.0),
    ("It is NOT MENTIONED.", "red", "adversarial", 1.0),
    ("No information available", "red", "adversarial", 1.0),
    ("no information is available", "red", "adversarial", 0.0),
    ("It was never mentioned", "red", "adversarial", 0.0),
    ("red", "red", "adversarial", 0.0),
    ("not  mentioned", "red", "adversarial", 0.0),
    ("", "red", "adversarial", 0.0),
    ("notmentioned", "red", "adversarial", 0.0),
    ("I do not know; not mentioned", "red", "adversarial", 1.0),
    ("unmentioned", "not mentioned", "adversarial", 0.0),
]


@needs_tools
@pytest.mark.parametrize("answer, expected, category, value", OFFICIAL)
def test_pairs_score_as_the_official_script_scores_them(answer, expected, category, value):
    assert locomo_f1.score(answer, expected, category) == value


@needs_tools
@pytest.mark.parametrize("category", CATEGORIES[:4])
def test_an_answer_is_fully_right_when_it_is_the_expected_one(category):
    for expected in (
        "7 May 2023",
        "the mill, a lake",
        "running; and swimming",
        "Orland's \u200btown",
    ):
        assert locomo_f1.score(expected, expected, category) > 0.5
        assert locomo_f1.score(expected.upper(), expected, category) > 0.5
        assert locomo_f1.score("Zyx", expected, category) == 0.0


@needs_tools
def test_parts_of_a_multi_hop_answer_may_come_in_any_order_and_missing_ones_cost_their_share():
    expected = "mills, lakes, towns, boats"
    assert locomo_f1.score("boat, town, lake, mill", expected, "multi-hop") == 1.0
    assert locomo_f1.score("lakes", expected, "multi-hop") == 0.25
    assert locomo_f1.score("lakes", expected, "single-hop") == pytest.approx(0.4)


@needs_tools
def test_only_open_domain_answers_end_at_a_semicolon():
    expected = "yes; because of the mill"
    assert locomo_f1.score("yes", expected, "open-domain") == 1.0
    assert 0.0 < locomo_f1.score("yes", expected, "single-hop") < 1.0


def test_an_adversarial_question_wants_to_be_refused_whatever_is_expected():
    for expected in ("", "red", "Not mentioned in the conversation"):
        assert locomo_f1.score("That is not mentioned.", expected, "adversarial") == 1.0
        assert locomo_f1.score("red", expected, "adversarial") == 0.0


def test_an_unknown_category_is_refused():
    with pytest.raises(ValueError, match="no category 'easy'; it must be one of multi-hop, temp"):
        locomo_f1.score("a", "b", "easy")


@pytest.mark.parametrize("package", ["nltk", "regex"])
def test_a_missing_package_is_told_with_the_command_that_brings_it(monkeypatch, package):
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    locomo_f1.tools.cache_clear()
    with pytest.raises(ImportError, match=r"LoCoMo's F1 needs the \w+ package: pip install -r"):
        locomo_f1.score("a mill", "the mill", "single-hop")
    locomo_f1.tools.cache_clear()
