"""The library mem0ai 1.0.11 in one conversation, with what it does to its stores written down."""

import contextlib
import io
import logging
import os
import uuid
from collections.abc import Sequence
from typing import Any

os.environ["MEM0_TELEMETRY"] = "False"  # before the import, which else sends events

import mem0  # noqa: E402
from qdrant_client import QdrantClient  # noqa: E402

from agemem_jax.protocol.prompts import query_text  # noqa: E402
from agemem_jax.tasks.task import Task  # noqa: E402
from experiments.checks.memory_systems.exchange import ModelRequest, Operation, Run  # noqa: E402
from experiments.checks.memory_systems.mem0 import lines_of  # noqa: E402

WIDTH = 256  # of the encoder behind the endpoint
TOP_K = 10


def run(task: Task, url: str, requests: Sequence[ModelRequest], graph: bool) -> Run:
    """Tells it the messages, one `add` each, and searches for the question."""
    logging.getLogger("mem0").setLevel(logging.CRITICAL)  # it logs what it survives
    memory = mem0.Memory.from_config(_config(url, graph))
    operations: list[Operation] = []
    _write_down(memory, operations)
    with contextlib.redirect_stderr(io.StringIO()):
        for message in task.messages:
            # A broken graph call ends an add, when the other thread has done its part.
            with contextlib.suppress(Exception):
                memory.add(message, user_id="user")
    asked = tuple(requests)
    try:
        found = memory.search(query_text(task.query), user_id="user", limit=TOP_K)
    except Exception:  # the graph's part of a search may fail like that of an add
        entries = memory._search_vector_store(
            query_text(task.query), {"user_id": "user"}, TOP_K, None
        )
        found = {"results": entries}
    relations = [
        f"{each['source']} -- {each['relationship']} -- {each['destination']}"
        for each in found.get("relations") or ()
    ]
    texts = [each["memory"] for each in found["results"]]
    memory.close()
    return Run(tuple(operations), lines_of(asked), (*texts, *sorted(relations)))


def _config(url: str, graph: bool) -> dict[str, Any]:
    model = {
        "provider": "openai",
        "config": {"model": "scripted", "api_key": "none", "openai_base_url": url},
    }
    encoder = {**model["config"], "model": "encoder", "embedding_dims": WIDTH}
    config = {
        "llm": model,
        "embedder": {"provider": "openai", "config": encoder},
        "vector_store": {
            "provider": "qdrant",
            "config": {
                "client": QdrantClient(":memory:"),
                "collection_name": uuid.uuid4().hex,
                "embedding_model_dims": WIDTH,
            },
        },
        "history_db_path": ":memory:",
    }
    if graph:
        config["graph_store"] = {"provider": "kuzu", "config": {"db": ":memory:"}}
    return config


def _write_down(memory: mem0.Memory, operations: list[Operation]) -> None:
    """Has every change of the stores of `memory` added to `operations`.

    Of one message those of the graph come behind those of the facts, whatever the threads do.
    """
    store, numbers, texts = memory.vector_store, {}, {}
    insert, update, delete = store.insert, store.update, store.delete
    linked: list[Operation] = []

    def do_insert(vectors, payloads=None, ids=None):
        insert(vectors=vectors, payloads=payloads, ids=ids)
        for name, payload in zip(ids, payloads, strict=True):
            numbers[name], texts[name] = len(numbers), payload["data"]
            operations.append(Operation("ADD", numbers[name], payload["data"]))

    def do_update(vector_id, vector=None, payload=None):
        update(vector_id=vector_id, vector=vector, payload=payload)
        texts[vector_id] = payload["data"]
        operations.append(Operation("UPDATE", numbers[vector_id], payload["data"]))

    def do_delete(vector_id):
        delete(vector_id=vector_id)
        operations.append(Operation("DELETE", numbers[vector_id], texts[vector_id]))

    store.insert, store.update, store.delete = do_insert, do_update, do_delete
    if memory.graph is None:
        return
    remove, link, add = memory.graph._delete_entities, memory.graph._add_entities, memory.add
    known: dict[str, None] = {}

    def do_remove(to_be_deleted, filters):
        rows = remove(to_be_deleted, filters)
        for line in _lines(rows):
            known.pop(line, None)
            linked.append(Operation("UNLINK", -1, line))
        return rows

    def do_link(to_be_added, filters, entity_type_map):
        rows = link(to_be_added, filters, entity_type_map)
        for line in _lines(rows):
            if line not in known:  # one that is there already only counts one more mention
                known[line] = None
                linked.append(Operation("LINK", -1, line))
        return rows

    def do_add(*arguments, **options):
        try:
            return add(*arguments, **options)
        finally:
            operations.extend(linked)
            linked.clear()

    memory.graph._delete_entities, memory.graph._add_entities = do_remove, do_link
    memory.add = do_add


def _lines(rows: Sequence[Sequence[dict[str, str]]]) -> list[str]:
    return [
        f"{row['source']} -- {row['relationship']} -- {row['target']}"
        for result in rows
        for row in result
    ]
