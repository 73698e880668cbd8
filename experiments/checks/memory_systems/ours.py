"""Our methods with a scripted model in place of the engine, all conversations at once."""

import collections
from collections.abc import Sequence

import jax
import numpy as np

from agemem_jax.memory.embedders import Embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.methods.registry import find_method
from agemem_jax.models import loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.requests import Generate, Generated
from agemem_jax.tasks.task import Task
from experiments.checks.memory_systems.exchange import Adapter, ModelRequest, Run

_NOTED = "<think>So.</think><answer>Noted.</answer>"


class _Scripted:
    """A backend whose responses are the adapter's replies."""

    def __init__(self, chat: ChatEncoder, adapter: Adapter, slots: int):
        self.slots = slots
        self.requests: dict[str, list[ModelRequest]] = collections.defaultdict(list)
        self._chat, self._adapter = chat, adapter
        self._played: dict[int, str] = {}
        self._waiting: list[tuple[int, Generate]] = []

    def begin(self, slot: int, rollout: Rollout) -> None:
        self._played[slot] = rollout.task.task_id

    def submit(self, slot: int, request: Generate) -> None:
        self._waiting.append((slot, request))

    def step(self) -> list[tuple[int, Generated]]:
        waiting, self._waiting = self._waiting, []
        return [(slot, self._generated(slot, request)) for slot, request in waiting]

    def _generated(self, slot: int, request: Generate) -> Generated:
        text = _NOTED
        if request.purpose != "act":
            asked = self._adapter.request_of_ours(request)
            if request.stage == 1:
                self.requests[self._played[slot]].append(asked)
            text = self._adapter.as_text(asked, self._adapter.answer(asked))
        ids = (*self._chat.encode(text), self._chat.stop_id)
        return Generated(ids, np.zeros(len(ids), np.float32))


class _Player:
    """What a method needs of a player where nothing is sampled."""

    def __init__(self, chat: ChatEncoder):
        self.chat = chat

    def rules(self, episode: EpisodeConfig) -> EpisodeRules:
        return EpisodeRules(episode, self.chat)


def run_ours(adapter: Adapter, tasks: Sequence[Task], embedder: Embedder, top_k: int) -> list[Run]:
    """What our method does in each of the conversations, which it plays side by side."""
    chat = ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)
    config = EpisodeConfig(
        max_context_tokens=100_000, max_messages=max(len(task.messages) for task in tasks),
        prompt_style="compact", top_k=top_k,
    )  # fmt: skip
    store = MemoryStore.create(embedder, rollouts=len(tasks), entries=256)
    backend = _Scripted(chat, adapter, slots=len(tasks))
    rules = find_method(adapter.method).rules(_Player(chat), config)
    rollouts = [Rollout(task, jax.random.key(0)) for task in tasks]
    return [
        adapter.run_of_ours(trajectory, backend.requests[trajectory.task.task_id])
        for trajectory in run_episodes(rollouts, rules, store, backend)
    ]
