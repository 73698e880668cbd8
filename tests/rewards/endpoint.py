"""An OpenAI-compatible endpoint that behaves as a test says."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from agemem_jax.rewards.judges import AnswerItem
from agemem_jax.rewards.llm_judge import LLMJudge, LLMJudgeConfig

SECRET = "sk-very-secret-key"
RIGHT = AnswerItem("Capital of Italy?", "Rome", "Rome")
WRONG = AnswerItem("Capital of Italy?", "Rome", "Oslo")


class Endpoint:
    """An HTTP server; `behave(number, body)` gives status, reply text and perhaps why it ended.

    In place of the text it may give the whole body: a dictionary, sent as JSON, or bytes.
    """

    def __init__(self, behave):
        self.requests = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint._lock:
                    endpoint._now += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint._now)
                    endpoint.requests.append((self.headers, body))
                    number = len(endpoint.requests)
                status, text, *finish = behave(number, body)
                with endpoint._lock:
                    endpoint._now -= 1
                data = text
                if not isinstance(text, bytes):
                    data = json.dumps(_body(status, text, *finish)).encode()
                with contextlib.suppress(OSError):  # the client may have hung up
                    self.send_response(status)
                    kind = "text/html" if isinstance(text, bytes) else "application/json"
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()


def _body(status, text, finish="stop"):
    if isinstance(text, dict):
        return text
    if status != 200:
        return {"error": {"message": text or f"broken for {SECRET}"}}
    choice = {
        "index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish,
    }  # fmt: skip
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
    }  # fmt: skip


def judge_at(url, **options) -> LLMJudge:
    quick = {"timeout": 5.0, "max_attempts": 3, "first_pause": 0.01, "longest_pause": 0.02}
    return LLMJudge(LLMJudgeConfig(base_url=url, model="m", **(quick | options)))


def always(text, status=200, *more):
    return lambda number, body: (status, text, *more)
