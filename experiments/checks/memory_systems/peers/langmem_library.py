"""The library langmem 0.0.30 in one conversation, with what it does to its store written down."""

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.store.base import PutOp
from langgraph.store.memory import InMemoryStore
from langmem import create_memory_store_manager

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.protocol.prompts import query_text
from agemem_jax.tasks.task import Task
from experiments.checks.memory_systems.exchange import ModelRequest, Operation, Run
from experiments.checks.memory_systems.langmem import in_order

TOP_K = 10
_NAMESPACE = ("memories",)
_HEADER = re.compile(r"=+ Human Message =+\n\n")


def run(task: Task, url: str, requests: Sequence[ModelRequest]) -> Run:
    """Gives its store manager the messages one by one, and searches for the question."""
    for name in ("extraction", "langgraph", "langmem", "httpx2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log what they survive
    embedder = make_embedder("hashed_ngrams")

    def embed(texts: Sequence[str]) -> list[list[float]]:
        return embedder.embed([_bare(text) for text in texts]).tolist()

    operations: list[Operation] = []
    store = _WrittenDown(operations, index={"dims": embedder.dim, "embed": embed})
    model = ChatOpenAI(model="scripted", api_key="none", base_url=url, max_retries=0)
    manager = create_memory_store_manager(
        model, store=store, namespace=_NAMESPACE, enable_deletes=True
    )
    for message in task.messages:
        messages = [{"role": "user", "content": message}]
        # One thread, so that repairs are asked for in one order. An error ends a message.
        with contextlib.suppress(Exception):
            manager.invoke({"messages": messages}, {"max_concurrency": 1})
    asked = tuple(request.text for request in requests)
    found = store.search(_NAMESPACE, query=query_text(task.query), limit=TOP_K)
    texts = tuple(_content(item.value) for item in found)
    return Run(in_order(operations), asked, texts)


class _WrittenDown(InMemoryStore):
    """A store that has every change of it added to `operations`."""

    __slots__ = ("_operations", "_numbers", "_texts")

    def __init__(self, operations: list[Operation], **options: Any):
        super().__init__(**options)
        self._operations = operations
        self._numbers: dict[str, int] = {}
        self._texts: dict[str, str] = {}

    def batch(self, ops: Iterable[Any]) -> list[Any]:
        ops = list(ops)
        for op in ops:
            if isinstance(op, PutOp):
                self._operations.append(self._operation(op))
        return super().batch(ops)

    def _operation(self, op: PutOp) -> Operation:
        if op.value is None:
            return Operation("DELETE", self._numbers[op.key], self._texts.pop(op.key))
        kind = "UPDATE" if op.key in self._texts else "ADD"
        number = self._numbers.setdefault(op.key, len(self._numbers))
        self._texts[op.key] = _content(op.value)
        return Operation(kind, number, self._texts[op.key])


def _content(value: dict[str, Any]) -> str:
    return value["content"]["content"]


def _bare(text: str) -> str:
    """What our method embeds: a message without its header, the content of an entry."""
    if header := _HEADER.match(text):
        return text[header.end() :]
    return _content(json.loads(text)) if text.startswith("{") else text
