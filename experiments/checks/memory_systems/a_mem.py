"""A-Mem: how its calls of the model are read, and ours."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_jax.protocol.events import ToolEvent
from agemem_jax.rollout.requests import Generate
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task
from experiments.checks.memory_systems import a_mem_model
from experiments.checks.memory_systems.exchange import (
    ModelRequest,
    NamedRequest,
    Operation,
    Reply,
    Run,
)

_KINDS = {"Add_memory": "ADD", "Update_memory": "UPDATE"}
_NEW = re.compile(
    r"The new memory context:\n\s*(?P<context>[^\n]*)\n\s*content: (?P<content>[^\n]*)"
    r"\n\s*keywords: (?P<keywords>[^\n]*)\n"
)
_NEAR = re.compile(
    r"memory_id:(?P<id>\S+)\ttalk start time:\d+\tmemory content: (?P<content>[^\t\n]*)"
    r"\tmemory context: (?P<context>[^\t\n]*)\tmemory keywords: (?P<keywords>[^\t\n]*)"
    r"\tmemory tags: (?P<tags>[^\t\n]*)\n"
)
_DESCRIPTION = re.compile(r" (?:context|keywords|tags): ")
_SHOWN = re.compile(r"- mem_\w{8}: (.*)")


class AMemAdapter:
    """An `exchange.Adapter`."""

    method = "a_mem(strict=True)"

    def answer(self, request: ModelRequest) -> Reply:
        return Reply(request.with_ids(a_mem_model.answer(request).text))

    def request_of_library(self, body: Mapping[str, Any]) -> ModelRequest:
        prompt = body["messages"][-1]["content"]
        if "Content for analysis:" in prompt:
            return _describe(prompt.partition("Content for analysis:")[2].strip())
        near = [found.groupdict() for found in _NEAR.finditer(prompt)]
        return _evolve(_NEW.search(prompt).groupdict(), near)

    def request_of_ours(self, request: Generate) -> ModelRequest:
        user = request.context.messages[-1].text
        if request.purpose == "describe":
            return _describe(user)
        _, new, _, *near = user.splitlines()
        return _evolve(json.loads(new), [json.loads(line) for line in near])

    def as_text(self, request: ModelRequest, reply: Reply) -> str:
        return reply.text

    def run_of_ours(self, trajectory: Trajectory, requests: Sequence[ModelRequest]) -> Run:
        numbers: dict[str | None, int] = {}
        operations = []
        for event in trajectory.events:
            if isinstance(event, ToolEvent) and event.ok:
                number = numbers.setdefault(event.memory_id, len(numbers))
                operations.append(Operation(_KINDS[event.name], number, event.content))
        question = [each.text for each in trajectory.transcript if each.role == "query"]
        found = _SHOWN.findall("\n".join(question))
        contents = [_DESCRIPTION.split(text)[0] for text in found]
        return Run(tuple(operations), lines_of(requests), tuple(dict.fromkeys(contents)))

    def run_library(self, task: Task, url: str, requests: Sequence[ModelRequest]) -> Run:
        from experiments.checks.memory_systems.peers import a_mem_library

        return a_mem_library.run(task, url, requests)


def lines_of(requests: Sequence[ModelRequest]) -> tuple[str, ...]:
    return tuple(request.text for request in requests)


def _describe(message: str) -> NamedRequest:
    return NamedRequest("describe", {"message": message})


def _evolve(new: Mapping[str, Any], near: Sequence[Mapping[str, Any]]) -> NamedRequest:
    """The values are compared as text, which is what the library keeps of them."""
    data = {
        "new": _as_text(new, "content", "context", "keywords"),
        "near": [_as_text(each, "content", "context", "keywords", "tags") for each in near],
    }
    return NamedRequest("evolve", data, tuple(each["id"] for each in near))


def _as_text(note: Mapping[str, Any], *keys: str) -> dict[str, str]:
    return {key: _plain(note[key]) for key in keys}


def _plain(value: Any) -> str:
    """A value as text, lists in one spelling whether they were written by Python or as JSON."""
    if isinstance(value, str) and value.startswith("["):
        value = ast.literal_eval(value)
    return str(value)
