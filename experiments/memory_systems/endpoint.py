"""A small OpenAI-compatible endpoint: chat completions by a function, embeddings by an encoder."""

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agemem_jax.memory.embedders import Embedder
from experiments.memory_systems.exchange import Reply


class Endpoint:
    """Serves on a free port of this machine while its block runs; `url` ends with `/v1`.

    Args:
      answer: gives the reply to the body of a chat request; called by one thread at a time.
      embedder: of `/v1/embeddings`.
    """

    def __init__(self, answer: Callable[[Mapping[str, Any]], Reply], embedder: Embedder):
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, value = 200, {}
                try:
                    with lock:
                        if self.path.endswith("/embeddings"):
                            value = _embeddings(body, embedder)
                        else:
                            value = _completion(body, answer(body))
                except Exception as error:  # told to the client, which would wait for ever
                    status, value = 400, {"error": {"message": f"{type(error).__name__}: {error}"}}
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "Endpoint":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()


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
