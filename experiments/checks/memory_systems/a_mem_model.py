"""A scripted model for A-Mem: sensible notes mostly, and every kind of wrong one."""

import json
import re
from typing import Any

from experiments.checks.memory_systems.exchange import ModelRequest, Reply

_WORD = re.compile(r"\b(?:[A-Z][a-z]{3,}|\d{4}|[a-z]{5,})\b")
_THEMES = ("people", "places", "dates", "work", "report", "question", "small talk")


def answer(request: ModelRequest) -> Reply:
    return _describe(request) if request.kind == "describe" else _evolve(request)


def _describe(request: ModelRequest) -> Reply:
    message = request.data["message"]
    value: dict[str, Any] = {
        "keywords": list(dict.fromkeys(_WORD.findall(message)))[:5],
        "context": f"Somebody tells: {message[:30].strip()}",
        "tags": [_THEMES[request.choice(3)], _THEMES[3 + request.choice(4, "second")]],
    }
    plain = json.dumps(value)
    odd: dict[int, str] = {
        0: "This text tells something.",
        1: plain[:-4],
        2: json.dumps([value]),
        3: "{}",
        4: json.dumps({**value, "keywords": "a, b"}),
        5: json.dumps({**value, "keywords": [1984, "a"]}),
        6: json.dumps({"keywords": None, "context": None, "tags": None}),
        7: json.dumps({**value, "context": 5}),
        8: f"```json\n{plain}\n```",
        9: json.dumps({**value, "tags": {"a": 1}}),
        10: "null",
        11: json.dumps({**value, "keywords": '["in", "a string"]'}),
        12: "",
        13: json.dumps({"context": value["context"], "note": "no more"}),
        14: f"<think>Hm.</think>{plain}",
        15: json.dumps({**value, "keywords": [], "context": "General", "tags": []}),
    }
    return Reply(odd.get(request.choice(48), plain))


def _evolve(request: ModelRequest) -> Reply:
    count = len(request.data["near"])
    value: dict[str, Any] = {
        "should_evolve": True,
        "actions": [["strengthen"], ["update_neighbor"], ["strengthen", "update_neighbor"]][
            request.choice(3, "actions")
        ],
        "suggested_connections": [f"#{place}" for place in range(count) if request.choice(2, "c")],
        "tags_to_update": ["renewed", _THEMES[request.choice(7)]],
        "new_context_neighborhood": [
            f"Beside {request.data['new']['content'][:20].strip()}, number {place}"
            for place in range(count)
        ],
        "new_tags_neighborhood": [["near", f"number {place}"] for place in range(count)],
    }
    both = {**value, "actions": ["strengthen", "update_neighbor"]}
    contexts, tags = value["new_context_neighborhood"], value["new_tags_neighborhood"]
    odd: dict[int, Any] = {
        0: {"should_evolve": False},
        1: {**value, "should_evolve": False},
        2: {"should_evolve": True},
        3: {**both, "should_evolve": "False"},
        4: {**both, "actions": ["merge", *both["actions"]]},
        5: {**both, "actions": "strengthen"},
        6: {**both, "actions": None},
        7: {**both, "suggested_connections": ["nobody", *both["suggested_connections"]]},
        8: {**both, "suggested_connections": None},
        9: {**both, "tags_to_update": []},
        10: {**both, "tags_to_update": "renewed"},
        11: {**both, "new_tags_neighborhood": tags[:-1]},
        12: {**both, "new_tags_neighborhood": [*tags, ["one more"]]},
        13: {**both, "new_context_neighborhood": contexts[:-1]},
        14: {**both, "new_context_neighborhood": None},
        15: {key: each for key, each in both.items() if key != "new_tags_neighborhood"},
        16: {key: each for key, each in both.items() if key != "new_context_neighborhood"},
        17: {key: each for key, each in both.items() if key != "tags_to_update"},
        18: {**both, "new_tags_neighborhood": [*tags[:-1], []]},
        19: {**both, "actions": both["actions"] * 2},
        20: [value],
        21: {**both, "new_context_neighborhood": ["General" for _ in contexts]},
        22: {**both, "new_context_neighborhood": [7 for _ in contexts]},
    }
    match choice := request.choice(60):
        case 30:
            return Reply("Nothing should evolve.")
        case 31:
            return Reply(json.dumps(value)[:-8])
        case 32:
            return Reply(f"```json\n{json.dumps(both)}\n```")
    return Reply(json.dumps(odd.get(choice, value)))
