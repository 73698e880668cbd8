"""Mem0 and its graph: what is read in replies, and what becomes of it."""

import dataclasses
import json
import random

import pytest

from agemem_jax.methods.mem0 import Mem0, ReplyError, read_actions, read_facts
from agemem_jax.methods.mem0_graph import Mem0Graph, Relation, rank, read_relations
from agemem_jax.protocol.events import FormatEvent, RetrievalEvent
from tests.methods.playing import NOTED, answer, calls, play


def told(*actions):
    return json.dumps({"memory": actions})


def facts(*texts):
    return json.dumps({"facts": texts})


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"facts": ["Ana lives in Rome"]}', ["Ana lives in Rome"]),
        ('```json\n{"facts": ["a b"]}\n```', ["a b"]),
        ('<think>{"facts": []}</think>{"facts": ["a b"]}', ["a b"]),
        ('Sure: {"facts": ["a b"]} Done.', ["a b"]),
        ('{"facts": [{"fact": "a"}, {"text": "b"}, {"other": "c"}, 3, ""]}', ["a", "b", "3"]),
        ('{"facts": null}', []),
        ("  ", []),
    ],
)
def test_facts_are_read_as_the_library_reads_them(reply, expected):
    assert read_facts(reply) == expected


@pytest.mark.parametrize(
    "reply",
    [
        "none",
        '{"facts": ["a',
        '["a"]',
        '{"fact": []}',
        '{"facts": 3}',
        "[" * 100_000,
        '{"facts": [' + "[" * 900 + "]" * 900 + "]}",
    ],
)
def test_what_holds_no_facts_is_refused_in_a_sentence(reply):
    with pytest.raises(ReplyError, match="^(The reply|facts)"):
        read_facts(reply)


def test_actions_need_a_list():
    assert read_actions(told({"a": 1})) == [{"a": 1}]
    assert read_actions("") == read_actions("{}") == []
    with pytest.raises(ReplyError):
        read_actions('{"memory": {"0": "a"}}')


def test_facts_become_entries_that_later_facts_change_and_questions_find(chat, store):
    trajectory, requests = play(
        Mem0(), chat, store,
        facts("Ana lives in Paris"), told({"text": "Ana lives in Paris", "event": "ADD"}),
        facts("Ana lives in Oslo"),
        told({"id": "0", "text": "Ana lives in Oslo", "event": "UPDATE"}),
        NOTED, answer("Oslo"),
    )  # fmt: skip
    assert list(trajectory.memory.values()) == ["Ana lives in Oslo"]
    assert [(call.name, call.step, call.ok) for call in calls(trajectory)] == [
        ("Add_memory", 1, True), ("Update_memory", 3, True),
    ]  # fmt: skip
    assert '{"id": "0", "text": "Ana lives in Paris"}' in requests[3].context.text
    assert requests[-1].context.text.endswith("Ana lives in Oslo")
    assert trajectory.outcome.answer == "Oslo"
    assert [request.purpose for request in requests[:4]] == ["extract", "update"] * 2


def test_without_facts_no_second_call_is_made_and_unreadable_replies_are_survived(chat, store):
    trajectory, requests = play(
        Mem0(), chat, store, facts(), facts("Ana lives in Oslo"), "no JSON", NOTED, answer("x")
    )
    assert [request.purpose for request in requests[:3]] == ["extract", "extract", "update"]
    assert not trajectory.memory
    assert [e.step for e in trajectory.events if isinstance(e, FormatEvent)] == [2]


def test_an_id_that_the_model_was_not_shown_fails_like_a_call_with_a_wrong_id(chat, store):
    trajectory, _ = play(
        Mem0(), chat, store,
        facts("Ana lives in Paris"),
        told({"id": "5", "text": "x", "event": "DELETE"}, {"id": 0, "text": "y", "event": "UPDATE"},
             {"text": 7, "event": "ADD"}, "z", {"id": "0", "event": "DELETE"}),
        facts(), NOTED, answer("x"),
    )  # fmt: skip
    assert [(call.name, call.ok) for call in calls(trajectory)] == [
        ("Delete_memory", False), ("Update_memory", False), ("Add_memory", False),
    ]  # fmt: skip
    assert sum(isinstance(e, FormatEvent) for e in trajectory.events) == 1


def entities(*names):
    return json.dumps({"entities": [{"entity": n, "entity_type": "t"} for n in names]})


def relations(*triples, key="entities"):
    names = ("source", "relationship", "destination")
    return json.dumps({key: [dict(zip(names, triple, strict=True)) for triple in triples]})


def test_a_relation_that_a_message_contradicts_goes_and_both_searches_are_shown(chat, store):
    trajectory, requests = play(
        Mem0Graph(), chat, store,
        facts("Ana lives in Paris"), told({"text": "Ana lives in Paris", "event": "ADD"}),
        entities("Ana", "Paris"), relations(("Ana", "lives in", "Paris")), relations(),
        facts(), entities("Ana", "Oslo"), relations(("Ana", "lives in", "Oslo")),
        relations(("ANA", "lives in", "Paris"), key="relations"),
        entities("Bo"), NOTED, entities("Ana"), answer("Oslo"),
    )  # fmt: skip
    assert list(trajectory.memory.values()) == ["Ana lives in Paris", "ana -- lives_in -- oslo"]
    assert "ana -- lives_in -- paris" in requests[8].context.text
    shown = requests[-1].context.text
    assert shown.endswith("Ana lives in Paris\nRelations:\n- ana -- lives_in -- oslo")
    found = [e for e in trajectory.events if isinstance(e, RetrievalEvent) and e.stage == 3]
    assert [[entry.content for entry in each.retrieved] for each in found] == [
        ["Ana lives in Paris"], ["ana -- lives_in -- oslo"],
    ]  # fmt: skip


def test_a_graph_call_that_is_cut_off_leaves_facts_and_graph_as_they_were(chat, store):
    trajectory, requests = play(
        Mem0Graph(), chat, store,
        facts(), '{"entities": [{"entity": "An', facts(), "none", "none", "none",
        "none", NOTED, "none", answer("x"),
    )  # fmt: skip
    purposes = [request.purpose for request in requests]
    assert purposes[:3] == ["extract", "entities", "extract"]  # cut off: nothing more is asked
    assert purposes[3:6] == ["entities", "relations", "deletions"]  # no call: it goes on
    assert not trajectory.memory


def test_relations_are_normalised_and_half_ones_left_out():
    given = [{"source": "Ana B", "relationship": "Lives In", "destination": "Rome"}, "x", {}]
    assert read_relations(given) == [Relation("ana_b", "lives_in", "rome")]
    with pytest.raises(ReplyError):
        read_relations([{"source": 1, "relationship": "a", "destination": "b"}])


def test_relations_are_ranked_as_by_rank_bm25():
    library = pytest.importorskip(
        "rank_bm25", reason="rank-bm25 is not installed; requirements-baselines-mem0.txt has it."
    )
    found = [Relation(*text.split()) for text in ("a b c", "a d e", "f g a", "h a i", "j k l")]
    words = [[r.source, r.relationship, r.destination] for r in found]
    for query in ("what of a", "k", "d g", "nothing"):
        best = library.BM25Okapi(words).get_top_n(query.split(" "), words, n=5)
        assert [words[place] for place in rank(query, found)] == best


JUNK = ["", "none", "{", "[]", "null", "3", '"text"', "{}", "```", "<think>", "\\ud83d", NOTED]
VALUES = [None, 3, 1.5, True, "x", "", [], ["y"], {"z": 1}, "0", "ADD", "\ud83d"]


def random_reply(rng):
    """Something like JSON with keys that mean something, and often nothing like it."""
    if rng.random() < 0.2:
        return rng.choice(JUNK)
    keys = ("facts", "memory", "entities", "relations", "text", "event", "id", "fact", "entity",
            "entity_type", "source", "relationship", "destination")  # fmt: skip
    events = ("ADD", "UPDATE", "DELETE", "NONE")

    def value(depth):
        kind = rng.random()
        if depth and kind < 0.4:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        if depth and kind < 0.8:
            some = {key: value(depth - 1) for key in rng.sample(keys, 5)}
            return some | ({"event": rng.choice(events)} if rng.random() < 0.7 else {})
        return rng.choice(VALUES)

    text = json.dumps({key: value(3) for key in keys[:4]})
    return text[: rng.randrange(len(text))] if rng.random() < 0.2 else text


@pytest.mark.parametrize("method", [Mem0(), Mem0Graph()])
def test_whatever_the_model_replies_the_episode_comes_to_its_end(method, chat, store):
    for seed in range(30):
        rng = random.Random(seed)

        def reply(request, rng=rng):
            return answer("x") if request.purpose == "act" else random_reply(rng)

        trajectory, _ = play(method, chat, store, *[reply] * 30)
        assert trajectory.outcome.answer == "x"
        json.dumps([dataclasses.asdict(event) for event in trajectory.events]).encode()
        assert trajectory.memory == store.contents(0)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="candidates is 0"):
        Mem0(candidates=0)
    with pytest.raises(ValueError, match="threshold is 2"):
        Mem0Graph(threshold=2.0)
