"""Episodes played by hand-written responses."""

import jax
import numpy as np

from agemem_jax.protocol.events import ToolEvent
from agemem_jax.protocol.prompts import tool_call_text
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.requests import Generated
from agemem_jax.tasks.task import Question, Task

TASK = Task(
    task_id="t",
    goal=Question("Where does Ana live?", "Oslo"),
    messages=("By the way, Ana lives in Paris.", "Ana moved to Oslo."),
    distractors=("Bo lives in Bergen.",),
    supporting_facts=("Ana lives in Oslo.",),
    stale_facts=("Ana lives in Paris.",),
    data_set="multihop",
)
NOTED = "<think>Fine.</think><answer>Noted.</answer>"


def call(name, **arguments):
    return "<think>So.</think>" + tool_call_text([(name, arguments)])


def answer(text):
    return f"<think>So.</think><answer>{text}</answer>"


class Replies:
    """A backend that gives prepared responses in order; a callable sees the request."""

    slots = 1

    def __init__(self, chat, *replies):
        self._chat, self._replies, self.requests = chat, list(replies), []

    def begin(self, slot, rollout):
        pass

    def submit(self, slot, request):
        self.requests.append(request)

    def step(self):
        reply = self._replies.pop(0)
        text = reply(self.requests[-1]) if callable(reply) else reply
        ids = (*self._chat.encode(text), self._chat.stop_id)
        return [(0, Generated(ids, np.zeros(len(ids), np.float32)))]


def play(chat, store, config, *replies, task=TASK):
    backend = Replies(chat, *replies)
    rollout = Rollout(task, jax.random.key(0))
    (trajectory,) = run_episodes([rollout], EpisodeRules(config, chat), store, backend)
    return trajectory, backend.requests


def tools(trajectory):
    return [event for event in trajectory.events if isinstance(event, ToolEvent)]
