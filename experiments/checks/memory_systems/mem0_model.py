"""A scripted model for Mem0: sensible replies mostly, and every kind of wrong one.

What it replies follows from the request alone, by rules and by a checksum.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from experiments.checks.memory_systems.exchange import ModelRequest, Reply

_NAME = re.compile(r"\b(?:[A-Z][a-z]+|\d{4})\b")
_OPENERS = {"The", "By", "Did", "Actually", "I", "It", "My", "You", "We", "Oh", "So", "Now", "As"}


def answer(request: ModelRequest) -> Reply:
    return _ANSWERS[request.kind](request)


def _extract(request: ModelRequest) -> Reply:
    message = request.data["message"]
    facts: list[Any] = [part.strip() for part in re.split(r"(?<=[.!?]) ", message)]
    facts = [fact for fact in facts if _names(fact)]
    plain = json.dumps({"facts": facts})
    match request.choice(40):
        case 0:
            return Reply("I found nothing that is worth keeping.")
        case 1:
            return Reply(plain[:-3])  # cut off
        case 2:
            return Reply(json.dumps({"fact": facts}))
        case 3:
            return Reply("")
        case 4:
            return Reply(json.dumps(facts))
        case 5:
            return Reply(f"```json\n{plain}\n```")
        case 6:
            return Reply(f"<think>What is {{new}} here?</think>\n{plain}")
        case 7:
            return Reply(f"Here are the facts: {plain} I hope that this helps.")
        case 8:
            wrapped = [{"fact": fact} if place % 2 else {"text": fact} for place, fact in
                       enumerate(facts)]  # fmt: skip
            return Reply(json.dumps({"facts": [*wrapped, {"note": "none"}, 1984, None]}))
        case 9:
            return Reply(json.dumps({"facts": " ".join(facts[:1])[:3]}))
        case 10:
            return Reply(json.dumps({"facts": 7}))
        case 11:
            return Reply(json.dumps({"facts": [*facts, *facts, ""]}))
        case 12:
            return Reply(json.dumps({"facts": [*facts, {"fact": ["a", "list"]}]}))
    return Reply(plain)


def _update(request: ModelRequest) -> Reply:
    memory, facts = request.data["memory"], request.data["facts"]
    actions: list[Any] = []
    touched: set[str] = set()
    added = len(memory)
    for fact in facts:
        near = max(memory, key=lambda entry: _overlap(entry["text"], fact), default=None)
        if near is not None and near["text"] == fact:
            actions.append({"id": near["id"], "text": fact, "event": "NONE"})
            continue
        if near is None or _overlap(near["text"], fact) < 0.3 or near["id"] in touched:
            actions.append({"id": str(added), "text": fact, "event": "ADD"})
            added += 1
            continue
        touched.add(near["id"])
        if request.choice(3, fact):
            new = {"text": fact, "event": "UPDATE", "old_memory": near["text"]}
            actions.append({"id": near["id"], **new})
        else:
            actions.append({"id": near["id"], "text": near["text"], "event": "DELETE"})
            actions.append({"id": str(added), "text": fact, "event": "ADD"})
            added += 1
    kept = [{**entry, "event": "NONE"} for entry in memory if entry["id"] not in touched]
    return _odd_actions(request, [*kept, *actions])


def _odd_actions(request: ModelRequest, actions: list[Any]) -> Reply:
    """The actions, in a third of the cases with something wrong about them."""
    plain = json.dumps({"memory": actions})
    first = request.data["memory"][:1]
    match request.choice(40):
        case 0:
            return Reply("The memory is up to date.")
        case 1:
            return Reply(plain[:-5])
        case 2:
            return Reply("")
        case 3:
            return Reply(json.dumps(actions))
        case 4:
            return Reply(json.dumps({"memory": {"0": "a"}}))
        case 5:
            return Reply(f"```\n{plain}\n```")
        case 6:
            return Reply(f"Sure!\n```json\n{plain}\n```\nDone.")
        case 7:
            odd = [
                "x",
                None,
                {"id": "0"},
                {"text": "No event"},
                {"text": "Odd", "event": "REPLACE"},
            ]
            return Reply(json.dumps({"memory": [*odd, *actions]}))
        case 8:
            odd = [{"id": "99", "text": "Unknown", "event": kind} for kind in ("UPDATE", "DELETE")]
            return Reply(json.dumps({"memory": [*odd, *actions]}))
        case 9:  # numbers in place of ids, a list in place of one
            odd = [{"id": number, "text": "Odd", "event": "UPDATE"} for number in (0, ["0"])]
            return Reply(json.dumps({"memory": [*odd, *actions]}))
        case 10:
            odd = [{"id": "0", "text": text, "event": "ADD"} for text in (["a", "list"], 5, "")]
            return Reply(json.dumps({"memory": [*odd, *actions]}))
        case 11:  # the same entry deleted and then updated
            odd = [{**each, "event": event} for each in first for event in ("DELETE", "UPDATE")]
            return Reply(json.dumps({"memory": [*odd, *actions]}))
        case 12:  # deleted without a text
            odd = [{"id": each["id"], "event": "DELETE"} for each in first]
            return Reply(json.dumps({"memory": [*odd, *actions]}))
        case 13:
            return Reply(json.dumps({"memory": None}))
        case 14:  # an update to what is there already
            odd = [{**each, "event": "UPDATE"} for each in first]
            return Reply(json.dumps({"memory": [*odd, *actions]}))
    return Reply(plain)


def _entities(request: ModelRequest) -> Reply:
    elements: list[Any] = [
        {"entity": name, "entity_type": "year" if name.isdigit() else "name"}
        for name in _names(request.data["text"])
    ]
    match request.choice(28):
        case 0:
            return Reply("I see no entities.")
        case 1:
            elements.insert(1, {"entity": "Half"})
        case 2:
            elements.insert(1, "Bare")
        case 3:
            elements.append({"entity": "Odd", "entity_type": 5})
        case 4:
            elements.insert(1, {"entity": ["a"], "entity_type": "list"})
        case 5:
            elements = [*elements, *elements]
        case 6:
            return _call("extract_entities", '{"entities": [{"entity": "Bro')
        case 7:
            return _call("extract_entities", "{}")
    return _call("extract_entities", json.dumps({"entities": elements}))


def _relations(request: ModelRequest) -> Reply:
    names = request.data["entities"]
    word = max(re.findall(r"\b[a-z]+\b", request.data["text"]) or ["is"], key=len)
    elements: list[Any] = [
        {"source": first, "relationship": f"{word} To", "destination": second}
        for first, second in zip(names, names[1:], strict=False)
    ]
    match request.choice(28):
        case 0:
            return Reply("They have nothing to do with each other.")
        case 1:
            elements.insert(0, {"source": "half", "destination": "relation"})
        case 2:
            elements.insert(0, "bare")
        case 3:
            elements.append({"source": "odd", "relationship": 5, "destination": "odd"})
        case 4:
            elements = [*elements, *elements]
        case 5:
            elements.append(
                {"source": "Me Self", "relationship": "knows", "destination": "me self"}
            )
        case 6:
            return _call("establish_relationships", json.dumps({"entities": "none"}))
    return _call("establish_relationships", json.dumps({"entities": elements}))


def _deletions(request: ModelRequest) -> Reply:
    relations = request.data["relations"]
    gone = [line for line in relations if request.choice(3, line) == 0]
    elements: list[Any] = [
        dict(zip(("source", "relationship", "destination"), line.split(" -- "), strict=True))
        for line in gone
    ]
    match request.choice(24):
        case 0:
            return Reply("Nothing has to go.")
        case 1:
            odd = {"source": "Nobody", "relationship": "knows", "destination": "Nobody"}
            elements.insert(0, odd)
        case 2:
            elements.insert(0, {"source": "half"})
        case 3:
            elements = [{key: value.title().replace("_", " ") for key, value in each.items()}
                        for each in elements]  # fmt: skip
        case 4:
            elements = [*elements, *elements]
    return Reply(calls=tuple(("delete_graph_memory", json.dumps(each)) for each in elements))


_ANSWERS = {
    "extract": _extract,
    "update": _update,
    "entities": _entities,
    "relations": _relations,
    "deletions": _deletions,
}


def _call(name: str, arguments: str) -> Reply:
    return Reply(calls=((name, arguments),))


def _names(text: str) -> Sequence[str]:
    return list(dict.fromkeys(name for name in _NAME.findall(text) if name not in _OPENERS))


def _overlap(first: str, second: str) -> float:
    """The share of words that two texts have in common."""
    one, other = set(first.lower().split()), set(second.lower().split())
    return len(one & other) / max(1, len(one | other))
