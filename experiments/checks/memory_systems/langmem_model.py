"""A scripted model for LangMem: sensible calls mostly, and every kind of wrong one."""

import json
import re
from collections.abc import Sequence
from typing import Any

from experiments.checks.memory_systems.exchange import ModelRequest, Reply

_NAME = re.compile(r"\b(?:[A-Z][a-z]+|\d{4})\b")

Call = tuple[str, str]


def answer(request: ModelRequest) -> Reply:
    if request.kind == "repair":
        return _repair(request)
    calls = _sensible(request)
    if request.data["again"]:
        return Reply(calls=tuple(calls))
    return _odd_manage(request, calls) if request.kind == "manage" else _odd_extract(request, calls)


def facts_of(message: str) -> list[str]:
    """The sentences of a message that have a name or a year in them."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?]) ", message)]
    return [part for part in parts if len(_NAME.findall(part)) > 1]


def overlap(first: str, second: str) -> float:
    """The share of words that two texts have in common."""
    one, other = set(first.lower().split()), set(second.lower().split())
    return len(one & other) / max(1, len(one | other))


def _sensible(request: ModelRequest) -> list[Call]:
    memory, calls, touched = request.data["memory"], [], set()
    for fact in facts_of(request.data["message"]):
        near = max(range(len(memory)), key=lambda place: overlap(memory[place], fact), default=None)
        if near is not None and memory[near] == fact:
            continue
        if near is None or near in touched or overlap(memory[near], fact) < 0.3:
            calls.append(_memory(fact))
            continue
        touched.add(near)
        if request.choice(3, fact):
            calls.append(_patch(near, _replace(fact)))
        else:
            calls += [_remove(near), _memory(fact)]
    return calls


def _odd_extract(request: ModelRequest, calls: Sequence[Call]) -> Reply:
    odd: dict[int, list[Call]] = {
        1: [("Memory", '{"content": ')],  # cut off
        2: [_call("Memory"), *calls],
        3: [_call("Remember", content="A thing to remember."), *calls],
        4: [*calls, _call("Memory", content=1984)],
        5: [_call("Memory", content=""), *calls],
        6: [*calls, *calls],
        7: [*calls, _call("RemoveDoc", json_doc_id="mem_0")],
        8: [*calls, ("Memory", '["a list"]')],
        9: [_call("Memory", content="A thing.", confidence=0.5), *calls],
        10: [("Memory", "null"), *calls],
    }
    choice = request.choice(24)
    if choice == 0:
        return Reply("There is nothing to remember.")
    return Reply(calls=tuple(odd.get(choice, calls)))


def _odd_manage(request: ModelRequest, calls: Sequence[Call]) -> Reply:
    old = request.data["memory"][0]
    last = len(request.data["memory"]) - 1
    replace = _replace(f"{old} It is said.")
    odd: dict[int, list[Call]] = {
        1: [("PatchDoc", '{"json_doc_id": "#0", ')],
        2: [_call("Memory"), *calls],
        3: [*calls, _call("Remember", content="A thing to remember.")],
        4: [_call("PatchDoc", json_doc_id="mem_0", planned_edits="", patches=replace), *calls],
        5: [_call("PatchDoc", planned_edits="", patches=replace), *calls],
        6: [_call("RemoveDoc", json_doc_id="mem_0"), *calls],
        7: [_patch(0, json.dumps(replace)), *calls],
        8: [_patch(0, f"These: {json.dumps(replace)} are all [of them]."), *calls],
        9: [_patch(0, [{"op": "replace", "path": "/text", "value": "x"}]), *calls],
        10: [_patch(0, [{"op": "replace", "path": "", "value": {"content": "All new."}}])],
        11: [_patch(0, [{"op": "remove", "path": "/content"}]), *calls],
        12: [_patch(0, []), *calls],
        13: [_patch(0, [{"op": "add", "path": "/when", "value": "1999"}]), *calls],
        14: [_patch(0, _replace("First.")), _patch(0, _replace("Second.")), *calls],
        15: [_patch(last, replace), _remove(last)],
        16: [_remove(last), _patch(last, replace)],
        17: [_remove(0), _remove(0), *calls],
        18: [_remove(place) for place in range(last + 1)],
        19: [*calls, ("RemoveDoc", '["a list"]')],
        20: [_call("PatchDoc", json_doc_id=7, planned_edits="", patches=replace), *calls],
        21: [_call("Memory", content=None), *calls, _call("Memory", text="A thing.")],
        22: [_patch(0, [*_test(old), *replace]), *calls],
        23: [_patch(0, [*_test("Something else."), *replace]), *calls],
        24: [_patch(0, [{"op": "replace", "path": "", "value": ["a list"]}]), *calls],
        25: [_patch(0, [*replace, *_twice()]), *calls],
        26: [_patch(0, [{"op": "add", "path": "/content/-", "value": " More."}]), *calls],
        27: [_patch(0, ["replace"]), *calls],
        28: [_patch(place, _replace(f"Entry {place}.")) for place in range(last, -1, -1)],
        29: [_patch(0, _replace(5)), *calls],
    }
    choice = request.choice(45)
    if choice == 0:
        return Reply("The memory is up to date.")
    return Reply(calls=tuple(odd.get(choice, calls)))


def _repair(request: ModelRequest) -> Reply:
    call = request.data["call"]
    if call["name"] not in ("Memory", "RemoveDoc"):
        return Reply(calls=(_call("PatchFunctionName", json_doc_id="x", reasoning=["no", "such"],
                                  fixed_name="Memory"),))  # fmt: skip
    if call["name"] == "RemoveDoc":
        if request.data["choices"] != 1:
            return Reply(calls=(_fix([]),))
        fixed = [{"op": "replace", "path": "/json_doc_id", "value": "#0"}]
    else:
        fixed = [{"op": "add", "path": "/content", "value": "A repaired thing."}]
    wrong = [{"op": "add", "path": "/content", "value": [1]}]
    match request.choice(8):
        case 0:
            return Reply(calls=(_fix(wrong),))
        case 1:
            return Reply(calls=(_call("Memory", content="In place of a repair."),))
        case 2:
            return Reply(calls=(_fix([{"op": "remove", "path": "/nothing"}]),))
        case 3:
            return Reply(calls=(_fix(json.dumps(fixed)),))
        case 4:
            return Reply(calls=(_fix(wrong), _fix(fixed)))
        case 5:
            return Reply("I cannot mend this.")
    return Reply(calls=(_fix(fixed),))


def _call(tool: str, **arguments: Any) -> Call:
    return tool, json.dumps(arguments)


def _memory(content: str) -> Call:
    return _call("Memory", content=content)


def _remove(place: int) -> Call:
    return _call("RemoveDoc", json_doc_id=f"#{place}")


def _patch(place: int, patches: Any) -> Call:
    edits = "Bring it up to date."
    return _call("PatchDoc", json_doc_id=f"#{place}", planned_edits=edits, patches=patches)


def _fix(patches: Any) -> Call:
    return _call("PatchFunctionErrors", json_doc_id="x", planned_edits="", patches=patches)


def _replace(value: Any) -> list[dict[str, Any]]:
    return [{"op": "replace", "path": "/content", "value": value}]


def _test(value: str) -> list[dict[str, Any]]:
    return [{"op": "test", "path": "/content", "value": value}]


def _twice() -> list[dict[str, Any]]:
    return [{"op": "copy", "from": "/content", "path": "/old"}, *_replace("Changed twice.")]
