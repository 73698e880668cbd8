"""LangMem's manager: what its calls do to the store, and what becomes of wrong ones."""

import dataclasses
import json
import random
import re

import pytest

from agemem_jax.methods.langmem import LangMem, read_patches
from agemem_jax.protocol.events import FormatEvent, RetrievalEvent
from tests.methods.playing import NOTED, TASK, answer, calls, play, trained_steps

PARIS, OSLO = "Ana lives in Paris", "Ana lives in Oslo"
NOTHING = "<think>So.</think><answer>nothing</answer>"


def written(*tools):
    """A reply that makes calls, each a name and its arguments."""
    listed = [{"name": name, "arguments": arguments} for name, arguments in tools]
    return f"<think>So.</think><tool_call>{json.dumps(listed)}</tool_call>"


def memory(*contents):
    return [("Memory", {"content": content}) for content in contents]


def replace(value, path="/content"):
    return {"op": "replace", "path": path, "value": value}


def fix(*patches):
    return written(("PatchFunctionErrors", {"json_doc_id": "x", "patches": list(patches)}))


class Changing:
    """Replies to the second message, given the ids that the first reply's memories have got."""

    def __init__(self, chat, store, first, *replies):
        self._told = chat, store, first, replies

    def play(self, **options):
        chat, store, first, replies = self._told
        # Ids follow from the task, so that one episode tells those of the next.
        before, _ = play(LangMem(), chat, store, written(*memory(*first)), NOTHING, NOTED, NOTED)
        ids = [call.memory_id for call in calls(before)]
        made = [reply(*ids) if callable(reply) else reply for reply in replies]
        return play(
            LangMem(**options), chat, store, written(*memory(*first)), *made, NOTED, answer("x")
        )


def operations(trajectory):
    return [(call.name.removesuffix("_memory"), call.content) for call in calls(trajectory)]


def wrong(trajectory, stage=1):
    found = [e for e in trajectory.events if isinstance(e, FormatEvent) and e.stage == stage]
    return [event.reason for event in found]


def test_one_reply_inserts_patches_and_deletes_updates_first_and_deletions_last(chat, store):
    def reply(paris, tea):
        return written(
            ("RemoveDoc", {"json_doc_id": tea}),
            *memory("Bo likes milk"),
            ("PatchDoc", {"json_doc_id": paris, "patches": [replace(OSLO)]}),
        )

    trajectory, requests = Changing(chat, store, (PARIS, "Bo likes tea"), reply).play()
    assert operations(trajectory)[2:] == [
        ("Update", OSLO), ("Add", "Bo likes milk"), ("Delete", None),
    ]  # fmt: skip
    assert sorted(trajectory.memory.values()) == [OSLO, "Bo likes milk"]
    assert [request.purpose for request in requests[:2]] == ["extract", "manage"]
    assert f'"content": "{PARIS}"' in requests[1].context.text and not wrong(trajectory)


def test_the_manager_sees_so_many_memories_near_the_message(chat, store):
    first = ("Ana lives in Paris", "Bo likes tea", "Cy has a dog")
    trajectory, requests = Changing(chat, store, first, NOTHING).play(query_limit=2)
    assert requests[1].context.messages[-1].text.count("json_doc_id") == 2
    found = [e for e in trajectory.events if isinstance(e, RetrievalEvent) and e.stage == 1]
    assert [len(event.retrieved) for event in found] == [0, 2]


@pytest.mark.parametrize(
    ("patches", "expected"),
    [
        ([replace("new")], ("Update", "new")),
        (json.dumps([replace("new")]), ("Update", "new")),
        (f"These {json.dumps([replace('new')])} it is", ("Update", "new")),
        ([replace({"content": "new"}, "")], ("Update", "new")),
        ([{"op": "test", "path": "/content", "value": PARIS}, replace("new")], ("Update", "new")),
        ([{"op": "add", "path": "/when", "value": 1999}], None),
        ([replace("new", "/text")], None),
        ([{"op": "test", "path": "/content", "value": "x"}, replace("new")], None),
        ([replace(PARIS)], None),
        (["replace"], None),
        ([], None),
        (None, None),
        (7, None),
    ],
)
def test_a_patch_that_cannot_be_applied_or_changes_nothing_is_left_out(
    chat, store, patches, expected
):
    def reply(paris):
        return written(("PatchDoc", {"json_doc_id": paris, "patches": patches}), *memory("more"))

    trajectory, _ = Changing(chat, store, (PARIS,), reply).play()
    assert operations(trajectory)[1:] == [*([expected] if expected else ()), ("Add", "more")]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("PatchDoc", "RemoveDoc"), ("Delete", None)),
        (("RemoveDoc", "PatchDoc"), ("Update", "last")),
        (("PatchDoc", "PatchDoc"), ("Update", "last")),
        (("RemoveDoc", "RemoveDoc"), ("Delete", None)),
    ],
)
def test_of_several_calls_for_one_memory_the_last_one_counts(chat, store, names, expected):
    def reply(paris):
        values = ("first", "last")
        return written(
            *((name, {"json_doc_id": paris, "patches": [replace(value)]})
              for name, value in zip(names, values, strict=True))
        )  # fmt: skip

    trajectory, _ = Changing(chat, store, (PARIS,), reply).play()
    assert operations(trajectory)[1:] == [expected]


def test_wrong_calls_are_repaired_the_last_one_first(chat, store):
    first = written(("Memory", {}), ("Remember", {"content": "b"}), *memory("c"))
    rename = written(("PatchFunctionName", {"reasoning": [], "fixed_name": "Memory"}))
    trajectory, requests = play(
        LangMem(), chat, store, first, rename, fix({"op": "add", "path": "/content", "value": "a"}),
        NOTHING, NOTED, answer("x"),
    )  # fmt: skip
    assert [content for _, content in operations(trajectory)] == ["a", "b", "c"]
    assert [request.purpose for request in requests[:3]] == ["extract", "repair", "repair"]
    assert '"Remember"' in requests[1].context.text
    assert 'Memory needs "content"' in requests[2].context.text
    assert not wrong(trajectory)


def test_what_two_repairs_did_not_mend_is_left_out_alone(chat, store):
    bad = fix({"op": "add", "path": "/content", "value": 5})
    first = written(("Memory", {}), *memory("c"))
    trajectory, requests = play(
        LangMem(), chat, store, first, bad, bad, NOTHING, NOTED, answer("x")
    )
    assert operations(trajectory) == [("Add", "c")]
    assert wrong(trajectory) == ['Memory needs "content", a string.']
    assert [request.purpose for request in requests[:4]] == [
        "extract", "repair", "repair", "manage",
    ]  # fmt: skip


def test_a_repair_without_a_call_loses_all_of_its_message(chat, store):
    first = written(("Memory", {}), *memory("c"))
    trajectory, _ = play(
        LangMem(), chat, store, first, "I cannot.", written(*memory("d")), NOTED, answer("x")
    )
    assert operations(trajectory) == [("Add", "d")]


def test_a_deletion_of_what_was_not_shown_is_repaired(chat, store):
    def repair(paris):
        return fix(replace(paris, "/json_doc_id"))

    gone = written(("RemoveDoc", {"json_doc_id": "mem_00000000"}))
    trajectory, _ = Changing(chat, store, (PARIS,), gone, repair).play()
    assert operations(trajectory)[1:] == [("Delete", None)]


@pytest.mark.parametrize(
    "reply",
    [
        written(("PatchDoc", {"patches": [replace("x")]})),
        written(("Memory", ["a list"]), *memory("b")),
        '<think>So.</think><tool_call>[{"name": 7, "arguments": {}}]</tool_call>',
        lambda paris: written(
            ("PatchDoc", {"json_doc_id": paris, "patches": [replace(["a list"], "")]})
        ),
    ],
)
def test_a_reply_that_cannot_be_used_is_asked_for_again_where_there_are_memories(
    chat, store, reply
):
    trajectory, requests = Changing(chat, store, (PARIS,), reply, written(*memory("b"))).play()
    assert operations(trajectory)[1:] == [("Add", "b")]
    assert "Your last reply was wrong: " in requests[2].context.text
    trajectory, requests = Changing(chat, store, (PARIS,), *[reply] * 3).play()
    assert operations(trajectory)[1:] == [] and requests[4].purpose == "act"


@pytest.mark.parametrize("reply", ["Nothing.", '<tool_call>[{"name": "Mem', written(*memory(5))])
def test_where_nothing_is_stored_yet_an_odd_reply_stores_nothing(chat, store, reply):
    replies = [reply, *(["no call"] if "5" in reply else ())]
    trajectory, _ = play(LangMem(), chat, store, *replies, NOTHING, NOTED, answer("x"))
    assert not trajectory.memory and wrong(trajectory)


def test_patches_of_a_string_are_found_by_their_brackets():
    assert read_patches({"patches": 'x [{"a": [1]}] [2]'}) == [{"a": [1]}]
    for text in ("", "none", "[", "]", "[1", '{"a": 1}', "[" * 100_000):
        assert read_patches({"patches": text}) == []


def test_a_patch_that_copies_its_document_over_and_over_is_refused(chat, store):
    def reply(paris):
        copies = [{"op": "copy", "from": "", "path": f"/{number}"} for number in range(40)]
        return written(("PatchDoc", {"json_doc_id": paris, "patches": copies}))

    trajectory, _ = Changing(chat, store, (PARIS,), reply).play()
    assert operations(trajectory)[1:] == []
    assert wrong(trajectory) == ["A patch copies 40 times; 8 times is the most."]


JUNK = ["", "none", "<tool_call>", "<tool_call>[]</tool_call>", "[" * 100_000, NOTED, "\\ud83d"]
VALUES = [None, 3, 1.5, True, "x", "", [], {"z": 1}, "\ud83d", "add", "copy", "/content", "/a/-",
          "Memory", "[" * 40, json.dumps([replace("y")])]  # fmt: skip
NAMES = [*["Memory", "PatchDoc", "RemoveDoc"] * 4, "PatchFunctionErrors", "PatchFunctionName", 7]
KEYS = ["content", "json_doc_id", "patches", "fixed_name", "op", "path", "value", "from"]


def random_reply(rng, ids):
    if rng.random() < 0.2:
        return rng.choice(JUNK)

    def value(depth):
        kind = rng.random()
        if depth and kind < 0.3:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        if depth and kind < 0.5:
            return {key: value(depth - 1) for key in rng.sample(KEYS, 4)}
        return rng.choice([*VALUES, *ids])

    def patch():
        if rng.random() < 0.5:
            return replace(str(rng.random()))
        ops = ["add", "remove", "replace", "copy", "move", "test"]
        return {"op": rng.choice(ops), "path": rng.choice(["", "/content", "/a", "/a/-", 7]),
                "from": rng.choice(["", "/content"]), "value": value(2)}  # fmt: skip

    def arguments():
        if rng.random() < 0.1:
            return value(2)
        given = {key: value(2) for key in KEYS[:4]}
        if rng.random() < 0.7:
            given["patches"] = [patch() for _ in range(rng.randrange(4))]
        if rng.random() < 0.7:
            given |= {"content": str(rng.random()), "json_doc_id": rng.choice(ids or ["none"])}
        return given

    return written(*((rng.choice(NAMES), arguments()) for _ in range(rng.randrange(4))))


def test_whatever_the_model_replies_the_episode_comes_to_its_end(chat, store):
    done = set()
    for seed in range(15):
        rng = random.Random(seed)

        def reply(request, rng=rng):
            if request.purpose == "act":
                return answer("x")
            return random_reply(rng, re.findall(r"mem_\w{8}", request.context.messages[-1].text))

        task = dataclasses.replace(TASK, messages=TASK.messages * 2)
        trajectory, _ = play(LangMem(), chat, store, *[reply] * 60, task=task)
        assert trajectory.outcome.answer == "x"
        json.dumps([dataclasses.asdict(event) for event in trajectory.events]).encode()
        assert trajectory.memory == store.contents(0)
        assert trained_steps(trajectory) == set(range(trajectory.num_steps))
        done |= {call.name for call in calls(trajectory)}
    assert done == {"Add_memory", "Update_memory", "Delete_memory"}


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="query_limit is 0"):
        LangMem(query_limit=0)
    with pytest.raises(ValueError, match="max_attempts is 0"):
        LangMem(max_attempts=0)
