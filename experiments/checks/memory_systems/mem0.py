"""Mem0, with and without its graph: how its calls of the model are read, and ours."""

import ast
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_jax.protocol.events import RetrievalEvent, ToolEvent
from agemem_jax.rollout.requests import Generate
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task
from experiments.checks.memory_systems import mem0_model
from experiments.checks.memory_systems.exchange import ModelRequest, Operation, Reply, Run

_KINDS = {"Add_memory": "ADD", "Update_memory": "UPDATE", "Delete_memory": "DELETE"}
_IN_GRAPH = {"ADD": "LINK", "DELETE": "UNLINK"}
_TOOLS = {
    "extract_entities": "entities",
    "establish_relationships": "relations",
    "delete_graph_memory": "deletions",
}


@dataclasses.dataclass(frozen=True)
class Mem0Adapter:
    """An `exchange.Adapter`."""

    graph: bool = False

    @property
    def method(self) -> str:
        return "mem0_graph" if self.graph else "mem0"

    def answer(self, request: ModelRequest) -> Reply:
        return mem0_model.answer(request)

    def request_of_library(self, body: Mapping[str, Any]) -> ModelRequest:
        user = body["messages"][-1]["content"]
        if body.get("tools"):
            kind = _TOOLS[body["tools"][0]["function"]["name"]]
            return getattr(self, f"_{kind}_of_library")(user)
        if len(body["messages"]) == 2:
            return _extract(user)
        # The last parts in fences are the memory, where there is any, and the facts.
        fenced = user.split("```")[1::2]
        memory, facts = fenced if len(fenced) == 2 else ("[]", *fenced)
        return _update(ast.literal_eval(memory.strip()), ast.literal_eval(facts.strip()))

    def _entities_of_library(self, user: str) -> ModelRequest:
        return ModelRequest("entities", {"text": user})

    def _relations_of_library(self, user: str) -> ModelRequest:
        found = re.fullmatch(r"List of entities: (.*)\. \n\nText: (.*)", user, re.DOTALL)
        return _relations(ast.literal_eval(found[1]), found[2])

    def _deletions_of_library(self, user: str) -> ModelRequest:
        pattern = r"Here are the existing memories: (.*) \n\n New Information: (.*)"
        found = re.fullmatch(pattern, user, re.DOTALL)
        return _deletions(found[1].splitlines(), found[2])

    def request_of_ours(self, request: Generate) -> ModelRequest:
        user = request.context.messages[-1].text
        lines = user.splitlines()
        match request.purpose:
            case "extract":
                return _extract(user + "\n")
            case "update":
                memory = [json.loads(line) for line in lines[1:-1]]
                return _update(memory, json.loads(lines[-1].removeprefix("New facts: ")))
            case "entities":
                return ModelRequest("entities", {"text": user.removeprefix("Text: ")})
            case "relations":
                names = json.loads(lines[-1].removeprefix("Entities: "))
                return _relations(names, "\n".join(lines[:-1]).removeprefix("Text: "))
            case "deletions":
                text, _, found = user.removeprefix("New text: ").partition("\nRelations:\n")
                return _deletions([] if found == "none" else found.splitlines(), text)
        raise ValueError(f"Mem0 makes no call of the model for {request.purpose!r}.")

    def as_text(self, request: ModelRequest, reply: Reply) -> str:
        if request.kind == "deletions" and not reply.text:
            listed = ", ".join(arguments for _, arguments in reply.calls)
            return f'{{"relations": [{listed}]}}'
        return reply.calls[0][1] if reply.calls else reply.text

    def run_of_ours(self, trajectory: Trajectory, requests: Sequence[ModelRequest]) -> Run:
        numbers: dict[str | None, int] = {}
        related: set[str | None] = set()
        operations = []
        for event in trajectory.events:
            if not isinstance(event, ToolEvent) or not event.ok:
                continue
            kind = _KINDS[event.name]
            metadata = event.arguments.get("metadata") or {}
            if metadata.get("kind") == "relation":
                related.add(event.memory_id)
            text = event.previous if kind == "DELETE" else event.content
            if event.memory_id in related:
                operations.append(Operation(_IN_GRAPH[kind], -1, text))
                continue
            number = numbers.setdefault(event.memory_id, len(numbers))
            operations.append(Operation(kind, number, text))
        found = [
            entry
            for event in trajectory.events
            if isinstance(event, RetrievalEvent) and event.stage == 3
            for entry in event.retrieved
        ]
        facts = [entry.content for entry in found if entry.memory_id not in related]
        relations = [entry.content for entry in found if entry.memory_id in related]
        return Run(tuple(operations), lines_of(requests), (*facts, *sorted(relations)))

    def run_library(self, task: Task, url: str, requests: Sequence[ModelRequest]) -> Run:
        from experiments.checks.memory_systems.peers import mem0_library

        return mem0_library.run(task, url, requests, graph=self.graph)


def lines_of(requests: Sequence[ModelRequest]) -> tuple[str, ...]:
    """The requests as lines, those for facts first: the library's graph asks in another thread."""
    facts = ("extract", "update")
    return tuple(r.text for r in sorted(requests, key=lambda request: request.kind not in facts))


def _extract(user: str) -> ModelRequest:
    return ModelRequest("extract", {"message": user.removeprefix("Input:\nuser: ")[:-1]})


def _update(memory: Sequence[Mapping[str, str]], facts: Sequence[str]) -> ModelRequest:
    return ModelRequest("update", {"memory": list(memory), "facts": list(facts)})


def _relations(entities: Sequence[str], text: str) -> ModelRequest:
    return ModelRequest("relations", {"entities": list(entities), "text": text})


def _deletions(relations: Sequence[str], text: str) -> ModelRequest:
    """Sorted: the library's database promises no order of what it finds."""
    return ModelRequest("deletions", {"relations": sorted(relations), "text": text})
