"""A-Mem: notes with descriptions, their links, and how they change each other."""

import dataclasses
import json
import random
import re

import pytest

from agemem_jax.methods.a_mem import AMem, Note
from agemem_jax.methods.mem0 import ReplyError
from agemem_jax.protocol.events import FormatEvent, RetrievalEvent
from tests.methods.playing import NOTED, TASK, answer, calls, play, trained_steps

DESCRIBED = json.dumps({"keywords": ["Ana", "Rome"], "context": "A home.", "tags": ["place"]})
TEXT = " context: A home. keywords: Ana, Rome tags: place"
STAYS = json.dumps({"should_evolve": False})


def evolved(*actions, **changed):
    value = {
        "should_evolve": True, "actions": actions, "suggested_connections": [],
        "tags_to_update": ["new"], "new_context_neighborhood": ["Renewed."],
        "new_tags_neighborhood": [["old"]],
    }  # fmt: skip
    return json.dumps({**value, **changed})


def first_id(chat, store):
    """The id of the first note, which follows from the task."""
    trajectory, _ = play(AMem(), chat, store, DESCRIBED, "", STAYS, NOTED, NOTED)
    return calls(trajectory)[0].memory_id


def two(chat, store, second, evolve, **options):
    """The second note's operations and the contents at the end, after its two replies."""
    trajectory, requests = play(
        AMem(**options), chat, store, DESCRIBED, second, *([evolve] if evolve else ()),
        NOTED, answer("x"),
    )  # fmt: skip
    made = [(call.name, call.content) for call in calls(trajectory)[1:]]
    return made, trajectory, requests


def test_a_message_becomes_a_note_with_its_description(chat, store):
    made, trajectory, requests = two(chat, store, DESCRIBED, STAYS)
    first, second = trajectory.task.messages
    assert list(trajectory.memory.values()) == [first + TEXT, second + TEXT]
    assert made == [("Add_memory", second + TEXT)]
    purposes = [request.purpose for request in requests[:3]]
    assert purposes == ["describe", "describe", "evolve"]  # the first has nothing to evolve with
    shown = requests[2].context.text
    assert json.dumps(second)[1:-1] in shown and first in shown and '"tags": ["place"]' in shown


def test_a_note_links_to_others_and_renews_them(chat, store):
    known = first_id(chat, store)
    reply = evolved("strengthen", "update_neighbor", suggested_connections=[known, "nobody", 7])
    made, trajectory, requests = two(chat, store, DESCRIBED, reply)
    first, second = trajectory.task.messages
    assert made == [
        ("Update_memory", f"{first} context: Renewed. keywords: Ana, Rome tags: old"),
        ("Add_memory", f"{second} context: A home. keywords: Ana, Rome tags: new"),
    ]


@pytest.mark.parametrize(("top_k", "found"), [(1, [1, 1]), (2, [2])])
def test_what_is_recalled_brings_linked_notes_once(chat, store, top_k, found):
    known = first_id(chat, store)
    like_the_question = json.dumps({"context": "Question: Where does Ana live?"})
    reply = evolved("strengthen", suggested_connections=[known, known])
    _, trajectory, requests = two(chat, store, like_the_question, reply, top_k=top_k)
    events = [e for e in trajectory.events if isinstance(e, RetrievalEvent) and e.stage == 3]
    assert [len(event.retrieved) for event in events] == found
    first, second = trajectory.task.messages
    question, heading, *lines = requests[-1].context.messages[-1].text.splitlines()
    assert heading == "Memories:" and len(lines) == 2
    assert second in lines[0] and first in lines[1]


@pytest.mark.parametrize(
    ("changed", "neighbour", "tags"),
    [
        ({"should_evolve": "False"}, "Renewed.", "old"),  # any text is true, as in the library
        ({"new_context_neighborhood": []}, "A home.", "old"),
        ({"new_context_neighborhood": [7]}, "7", "old"),
        ({"new_tags_neighborhood": [["a"], ["b"], ["c"]]}, "Renewed.", "a"),
        ({"new_tags_neighborhood": ['["in", "text"]']}, "Renewed.", "in, text"),
        ({"new_tags_neighborhood": []}, None, None),
        ({"new_tags_neighborhood": [[1]]}, None, None),
        ({"new_tags_neighborhood": ["text"]}, None, None),
        ({"new_tags_neighborhood": None}, None, None),
        ({"new_context_neighborhood": None}, None, None),
        ({"actions": None}, None, None),
        ({"actions": "update_neighbor"}, None, None),
        ({"should_evolve": False}, None, None),
    ],
)
def test_odd_replies_change_neighbours_as_far_as_in_the_library(
    chat, store, changed, neighbour, tags
):
    made, trajectory, _ = two(chat, store, DESCRIBED, evolved("update_neighbor", **changed))
    first, second = trajectory.task.messages
    updates = [content for name, content in made if name == "Update_memory"]
    text = f"{first} context: {neighbour} keywords: Ana, Rome tags: {tags}"
    assert updates == ([text] if neighbour else [])
    assert made[-1] == ("Add_memory", second + TEXT)


def test_tags_of_a_new_note_that_are_no_words_lose_the_note_but_not_what_it_changed(chat, store):
    reply = evolved("update_neighbor", "strengthen", tags_to_update=[1])
    made, trajectory, _ = two(chat, store, DESCRIBED, reply)
    assert [name for name, _ in made] == ["Update_memory"]
    assert any(isinstance(event, FormatEvent) for event in trajectory.events)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("A text.", ""),
        ("{}", ""),
        ('{"keywords": null, "context": null, "tags": null}', " context: None"),
        ('{"keywords": [], "context": "General", "tags": []}', ""),
        ('{"context": 5}', " context: 5"),
        (f"```json\n{DESCRIBED}\n```", TEXT),
        (f"<think>So.</think>{DESCRIBED}", TEXT),
        (f"Here: {DESCRIBED}", TEXT),
    ],
)
def test_a_description_is_read_with_text_around_it_and_done_without(chat, store, reply, text):
    made, trajectory, _ = two(chat, store, reply, STAYS)
    assert made == [("Add_memory", trajectory.task.messages[1] + text)]


@pytest.mark.parametrize(
    ("reply", "stored"), [(f"<think>So.</think>{DESCRIBED}", ""), (DESCRIBED, TEXT)]
)
def test_strict_reading_takes_json_alone(chat, store, reply, stored):
    made, trajectory, _ = two(chat, store, reply, STAYS, strict=True)
    assert made == [("Add_memory", trajectory.task.messages[1] + stored)]


def test_where_the_library_raises_the_note_is_not_stored(chat, store):
    made, _, _ = two(chat, store, f"[{DESCRIBED}]", None, strict=True)
    assert made == []
    made, _, _ = two(chat, store, '{"keywords": "a, b"}', STAYS)
    assert made == []


def test_a_note_without_words_in_its_lists_has_no_text():
    assert Note("a", [], "General", None).text == "a"
    assert Note("a", '["b", "c"]', "d", []).text == "a context: d keywords: b, c"
    for odd in ({"a": 1}, 7, "b", [1]):
        with pytest.raises(ReplyError, match="keywords"):
            Note("a", odd, "d", []).text  # noqa: B018


JUNK = ["", "none", "{", "null", "3", '"text"', "```", NOTED, f"[{DESCRIBED}]",
        '{"context": ' + "[" * 900 + "]" * 900 + "}", "[" * 100_000]  # fmt: skip
VALUES = [None, 3, 1.5, True, "x", "", [], ["y"], {"z": 1}, "\ud83d", ["strengthen"],
          ["update_neighbor", "strengthen"], "[1]", '["a"]', [["a"], ["b"]]]  # fmt: skip
KEYS = ["keywords", "context", "tags", "should_evolve", "actions", "suggested_connections",
        "tags_to_update", "new_context_neighborhood", "new_tags_neighborhood"]  # fmt: skip


@pytest.mark.parametrize("strict", [False, True])
def test_whatever_the_model_replies_the_episode_comes_to_its_end(chat, store, strict):
    done = set()
    for seed in range(10):
        rng = random.Random(seed)

        def reply(request, rng=rng):
            if request.purpose == "act":
                return answer("x")
            if rng.random() < 0.15:
                return rng.choice(JUNK)
            ids = re.findall(r"mem_\w{8}", request.context.messages[-1].text)
            good = json.loads(evolved("strengthen", "update_neighbor", suggested_connections=ids))
            value = json.loads(DESCRIBED) | good
            return json.dumps(value | {key: rng.choice(VALUES) for key in rng.sample(KEYS, 2)})

        task = dataclasses.replace(TASK, messages=TASK.messages * 2)
        trajectory, _ = play(AMem(strict=strict), chat, store, *[reply] * 60, task=task)
        assert trajectory.outcome.answer == "x"
        json.dumps([dataclasses.asdict(event) for event in trajectory.events]).encode()
        assert trajectory.memory == store.contents(0)
        assert trained_steps(trajectory) == set(range(trajectory.num_steps))
        done |= {call.name for call in calls(trajectory)}
    assert done == {"Add_memory", "Update_memory"}


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="neighbours is 0"):
        AMem(neighbours=0)
