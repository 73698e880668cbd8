"""The library a-mem 0.2.6 in one conversation, with what it does to its store written down.

Of its requirements only chromadb is needed here: what it imports beside and does not use in this
comparison has an empty place. It keeps each store in a folder of its own.
"""

import contextlib
import io
import logging
import os
import sys
import tempfile
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

os.environ["ANONYMIZED_TELEMETRY"] = "False"  # before the import, which else sends events

_UNUSED = {
    "litellm": ("completion",),
    "nltk": (),
    "nltk.tokenize": ("word_tokenize",),
    "rank_bm25": ("BM25Okapi",),
    "sentence_transformers": ("SentenceTransformer",),
    "sklearn": (),
    "sklearn.metrics": (),
    "sklearn.metrics.pairwise": ("cosine_similarity",),
    "transformers": ("AutoModel", "AutoTokenizer"),
}


@contextlib.contextmanager
def _places_of_the_unused():
    """Empty modules for what the library imports without a use here; ours are as they were."""
    before = {name: sys.modules.get(name) for name in _UNUSED}
    for name, attributes in _UNUSED.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(dict.fromkeys(attributes))
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


with _places_of_the_unused():
    from agentic_memory import retrievers
    from agentic_memory.memory_system import AgenticMemorySystem

from chromadb.api.types import EmbeddingFunction  # noqa: E402

from agemem_jax.memory.embedders import make_embedder  # noqa: E402
from agemem_jax.protocol.prompts import query_text  # noqa: E402
from agemem_jax.tasks.task import Task  # noqa: E402
from experiments.checks.memory_systems.a_mem import lines_of  # noqa: E402
from experiments.checks.memory_systems.exchange import ModelRequest, Operation, Run  # noqa: E402

TOP_K = 10


class _Encoder(EmbeddingFunction):
    """The encoder of the comparison in the place of a sentence transformer."""

    def __init__(self, model_name: str = ""):
        self._embedder = make_embedder("hashed_ngrams")

    def __call__(self, input: Sequence[str]) -> list[np.ndarray]:
        return list(np.asarray(self._embedder.embed(list(input)), np.float32))


retrievers.SentenceTransformerEmbeddingFunction = _Encoder


def run(task: Task, url: str, requests: Sequence[ModelRequest]) -> Run:
    """Has it note the messages one by one, and looks for what is near the question."""
    for name in ("agentic_memory", "httpx2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log what they survive
    os.environ["OPENAI_BASE_URL"] = url
    operations: list[Operation] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        memory = AgenticMemorySystem(storage_path=folder, api_key="none")
        memory.retriever.collection = _WrittenDown(memory.retriever.collection, operations)
        for message in task.messages:
            with contextlib.suppress(Exception):  # a note that cannot be embedded is not stored
                memory.add_note(message)
        asked = lines_of(requests)
        found = memory.find_related_memories_raw(query_text(task.query), k=TOP_K)
    contents = [
        line.partition("\tmemory content: ")[2].partition("\tmemory context: ")[0]
        for line in found.splitlines()
    ]
    return Run(tuple(operations), asked, tuple(dict.fromkeys(contents)))


class _WrittenDown:
    """A collection of chromadb that has every change of it added to `operations`.

    The library updates a note by a deletion and an addition, which counts as one update.
    """

    def __init__(self, collection: Any, operations: list[Operation]):
        self._collection, self._operations = collection, operations
        self._numbers: dict[str, int] = {}

    def add(self, documents: Sequence[str], metadatas: Sequence[Any], ids: Sequence[str]) -> None:
        self._collection.add(documents=documents, metadatas=metadatas, ids=ids)
        for name, text in zip(ids, documents, strict=True):
            kind = "UPDATE" if name in self._numbers else "ADD"
            number = self._numbers.setdefault(name, len(self._numbers))
            self._operations.append(Operation(kind, number, text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)
