"""A small OpenAI-compatible endpoint: chat completions by a function, embeddings by an encoder."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from agemem_jax.memory.embedders import Embedder
from experiments.checks.local_server import LocalServer
from experiments.checks.memory_systems.exchange import Reply


class Endpoint(LocalServer):
    """Serves while its block runs.

    Args:
      answer: gives the reply to the body of a chat request; called by one thread at a time.
      embedder: of `/v1/embeddings`.
    """

    def __init__(self, answer: Callable[[Mapping[str, Any]], Reply], embedder: Embedder):
        lock = threading.Lock()

        def handle(path: str, headers: Mapping[str, str], body: Any) -> tuple[int, dict[str, Any]]:
            try:
                with lock:
                    if path.endswith("/embeddings"):
                        return 200, _embeddings(body, embedder)
                    return 200, _completion(body, answer(body))
            except Exception as error:  # told to the client, which would wait for ever
                return 400, {"error": {"message": f"{type(error).__name__}: {error}"}}

        super().__init__(handle)


def _embeddings(body: Mapping[str, Any], embedder: Embedder) -> dict[str, Any]:
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    vectors = embedder.embed(texts).tolist()
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "model": body["model"], "data": data, "usage": _USAGE}


def _completion(body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.calls:
        message["tool_calls"] = [
            {"id": f"call_{place}", "type": "function",
             "function": {"name": name, "arguments": arguments}}
            for place, (name, arguments) in enumerate(reply.calls)
        ]  # fmt: skip
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "tool_calls" if reply.calls else "stop",
    }
    return {
        "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [choice], "usage": _USAGE,
    }  # fmt: skip


_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
