"""An OpenAI-compatible endpoint that behaves as a test says."""

import threading

from agemem_jax.rewards.judges import AnswerItem
from agemem_jax.rewards.llm_judge import LLMJudge, LLMJudgeConfig
from experiments.checks.local_server import LocalServer

SECRET = "sk-very-secret-key"
RIGHT = AnswerItem("Capital of Italy?", "Rome", "Rome")
WRONG = AnswerItem("Capital of Italy?", "Rome", "Oslo")


class Endpoint(LocalServer):
    """An HTTP server; `behave(number, body)` gives status, reply text and perhaps why it ended.

    In place of the text it may give the whole body: a dictionary, sent as JSON, or bytes.
    """

    def __init__(self, behave):
        super().__init__(self._answer)
        self.requests = []
        self.most_at_once = 0
        self._behave, self._now, self._lock = behave, 0, threading.Lock()

    def _answer(self, path, headers, body):
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.requests.append((headers, body))
            number = len(self.requests)
        status, text, *finish = self._behave(number, body)
        with self._lock:
            self._now -= 1
        return status, text if isinstance(text, bytes) else _body(status, text, *finish)


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
