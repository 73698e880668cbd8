"""LangMem: how its manager's calls of the model are read, and ours."""

import ast
import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_jax.protocol.events import RetrievalEvent, ToolEvent
from agemem_jax.rollout.requests import Generate
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task
from experiments.checks.memory_systems import langmem_model
from experiments.checks.memory_systems.exchange import (
    ModelRequest,
    NamedRequest,
    Operation,
    Reply,
    Run,
)

_KINDS = {"Add_memory": "ADD", "Update_memory": "UPDATE", "Delete_memory": "DELETE"}
_SESSION = re.compile(r"<session_\S+>\n=+ Human Message =+\n\n(.*)\n</session_\S+>", re.DOTALL)
_INSTANCE = re.compile(r'<instance id=(\S+) schema_type="Memory">\n(.*?)\n</instance>', re.DOTALL)


class LangMemAdapter:
    """An `exchange.Adapter`."""

    method = "langmem"

    def answer(self, request: ModelRequest) -> Reply:
        reply = langmem_model.answer(request)
        calls = tuple((name, request.with_ids(arguments)) for name, arguments in reply.calls)
        return dataclasses.replace(reply, calls=calls)

    def request_of_library(self, body: Mapping[str, Any]) -> ModelRequest:
        messages = body["messages"]
        offered = [tool["function"]["name"] for tool in body["tools"]]
        prompt = "\n".join(message["content"] or "" for message in messages)
        message = _SESSION.search(prompt)[1]
        if offered[0] == "PatchFunctionErrors":
            wrong, error = messages[-1]["tool_call_id"], messages[-1]["content"]
            calls = messages[-2]["tool_calls"]
            (function,) = (call["function"] for call in calls if call["id"] == wrong)
            ids = re.search(r"Available IDs: (\[.*?\])", error)
            written = {"name": function["name"], "arguments": json.loads(function["arguments"])}
            return _repair(message, written, ast.literal_eval(ids[1]) if ids else ())
        found = _INSTANCE.findall(prompt)
        memory = {name: ast.literal_eval(value)["content"] for name, value in found}
        return _first(message, memory, again=messages[-1]["content"].startswith("Fix the"))

    def request_of_ours(self, request: Generate) -> ModelRequest:
        lines = request.context.messages[-1].text.splitlines()
        place = lines.index("Message:")
        if request.purpose == "repair":
            call = json.loads(lines[0].removeprefix("Call: "))
            return _repair(lines[place + 1], call, re.findall(r"\bmem_\w{8}\b", lines[1]))
        listed = [json.loads(line) for line in lines[place + 3 :]]
        memory = {each["json_doc_id"]: each["content"] for each in listed}
        return _first(lines[place + 1], memory, again=place > 0)

    def as_text(self, request: ModelRequest, reply: Reply) -> str:
        if not reply.calls:
            return reply.text
        calls = (f'{{"name": "{name}", "arguments": {text}}}' for name, text in reply.calls)
        return f"<think>So.</think><tool_call>[{', '.join(calls)}]</tool_call>"

    def run_of_ours(self, trajectory: Trajectory, requests: Sequence[ModelRequest]) -> Run:
        numbers: dict[str | None, int] = {}
        operations = []
        for event in trajectory.events:
            if isinstance(event, ToolEvent) and event.ok:
                kind = _KINDS[event.name]
                number = numbers.setdefault(event.memory_id, len(numbers))
                text = event.previous if kind == "DELETE" else event.content
                operations.append(Operation(kind, number, text))
        found = [
            entry.content
            for event in trajectory.events
            if isinstance(event, RetrievalEvent) and event.stage == 3
            for entry in event.retrieved
        ]
        return Run(in_order(operations), tuple(r.text for r in requests), tuple(found))

    def run_library(self, task: Task, url: str, requests: Sequence[ModelRequest]) -> Run:
        from experiments.checks.memory_systems.peers import langmem_library

        return langmem_library.run(task, url, requests)


def in_order(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """Deletions one behind the other by their entries: the library makes them in any order."""
    runs = itertools.groupby(operations, key=lambda each: each.kind == "DELETE")
    return tuple(
        each
        for deletions, run in runs
        for each in (sorted(run, key=lambda each: each.entry) if deletions else run)
    )


def _first(message: str, memory: Mapping[str, str], again: bool) -> NamedRequest:
    data = {"message": message, "memory": list(memory.values()), "again": again}
    return NamedRequest("manage" if memory else "extract", data, tuple(memory))


def _repair(message: str, call: Mapping[str, Any], ids: Sequence[str]) -> NamedRequest:
    """Ids are those that the error names; they come in another order in the library's."""
    data = {"message": message, "call": dict(call), "choices": len(ids)}
    return NamedRequest("repair", data, tuple(ids))
