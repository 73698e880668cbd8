"""Policies that play by script: some do the task, others only what a reward could pay for.

`reward_hacks.py` and tests score them with the library's own rewards. None but the honest ones
knows the task's answer or facts; each is one idea of how to be paid for nothing.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.models import loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.protocol.messages import Kind, Message
from agemem_jax.protocol.prompts import tool_call_text
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.requests import Generate, Generated
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task
from agemem_jax.training.warmup.demonstrations import Imperfection, ScriptedAgent, names_in

QUICKSTART = EpisodeConfig(
    prompt_style="compact", max_context_tokens=896, max_response_tokens=96, max_summary_tokens=48,
    max_rounds=3,
)  # fmt: skip
_FAULTLESS = Imperfection(**{field.name: 0.0 for field in dataclasses.fields(Imperfection)})
_ENTRY = re.compile(r"^- (mem_[0-9a-f]{8}): (.*)$", re.MULTILINE)
_ADDED = re.compile(r"Added (mem_[0-9a-f]{8})")

Call = tuple[str, dict]


def call(*calls: Call, thought: str = "So.") -> str:
    """A response that makes these calls."""
    return f"<think>{thought}</think>{tool_call_text(calls)}"


def answer(text: str, thought: str = "So.") -> str:
    """A response that answers."""
    return f"<think>{thought}</think><answer>{text}</answer>"


class Mute:
    """Does nothing and answers "unknown"; the others begin from here.

    One object plays one episode. `said` is the last message, `results` those of Stage 3 so far.
    """

    def __init__(self, task: Task):
        self.task = task
        self.results = 0

    def respond(self, request: Generate) -> str:
        said = request.context.messages[-1]
        if request.purpose == "summary":
            return self.summary(said.text)
        if request.stage < 3:
            return (self.remember if request.stage == 1 else self.tidy)(said)
        if said.kind is not Kind.QUERY:
            self.results += 1
        return self.conclude(said)

    def summary(self, text: str) -> str:
        return "x"

    def remember(self, said: Message) -> str:
        return answer("Noted.")

    def tidy(self, said: Message) -> str:
        return answer("Noted.")

    def conclude(self, said: Message) -> str:
        return answer("unknown")


class Summariser(Mute):
    """Summarises each distractor to a letter, and retrieves by the words of the query."""

    def tidy(self, said):
        return call(("Summary_context", {"span": "1"}))

    def conclude(self, said):
        if self.results:
            return answer("unknown")
        return call(("Retrieve_memory", {"query": said.text}))


class DummyWriter(Summariser):
    """Adds a dummy where storage does not look, and deletes one of them."""

    def tidy(self, said):
        return call(("Add_memory", {"content": "x"}), ("Summary_context", {"span": "1"}))

    def conclude(self, said):
        entries = _ENTRY.findall(said.text)
        if self.results == 1 and entries:
            return call(("Delete_memory", {"memory_id": entries[0][0], "confirmation": True}))
        return super().conclude(said)


class Hoarder(Summariser):
    """Stores every message as it came, and updates one of them by a full stop."""

    def remember(self, said):
        return call(("Add_memory", {"content": said.text.split("\nMemories:\n")[0]}))

    def conclude(self, said):
        entries = _ENTRY.findall(said.text)
        if self.results == 1 and entries:
            memory_id, content = entries[0]
            return call(("Update_memory", {"memory_id": memory_id, "content": f"{content} ."}))
        return super().conclude(said)


class Duplicator(Hoarder):
    """Stores every message three times."""

    def remember(self, said):
        content = said.text.split("\nMemories:\n")[0]
        return call(*[("Add_memory", {"content": content})] * 3)


class NameLister(Hoarder):
    """Stores the names of every message, in one list without a word about them."""

    def remember(self, said):
        return call(("Add_memory", {"content": ", ".join(names_in(said.text)) or "nobody"}))


class Filterer(Mute):
    """Filters away everything that it is shown."""

    def tidy(self, said):
        return call(("Filter_context", {"criteria": said.text}))

    def conclude(self, said):
        if self.results:
            return answer("unknown")
        return call(
            ("Filter_context", {"criteria": said.text}), ("Summary_context", {"span": "all"})
        )


class Inflater(Mute):
    """Fills the context with thoughts and retrievals, then empties it."""

    def tidy(self, said):
        return answer("Noted.", thought="so " * 30)

    def conclude(self, said):
        if self.results < 2:
            last = self.results == 1
            tool = ("Summary_context", {"span": "all"}) if last else (
                "Retrieve_memory", {"query": said.text, "top_k": 10},
            )  # fmt: skip
            return call(tool, thought="so " * 10)
        return answer("unknown")


class Reverser(Hoarder):
    """Stores each message, stores that it is not true, and takes the second back."""

    def remember(self, said):
        content = said.text.split("\nMemories:\n")[0]
        denied = f"It is not true that {content}"
        return call(("Add_memory", {"content": content}), ("Add_memory", {"content": denied}))

    def conclude(self, said):
        denials = [i for i, content in _ENTRY.findall(said.text) if "not true" in content]
        if self.results == 1 and denials:
            return call(
                *(("Delete_memory", {"memory_id": i, "confirmation": True}) for i in denials)
            )
        return Summariser.conclude(self, said)


class Renewer(Hoarder):
    """Stores each message, and in Stage 3 deletes what it finds first and adds it again."""

    def conclude(self, said):
        entries = _ENTRY.findall(said.text)
        if self.results == 1 and entries:
            memory_id, content = entries[0]
            return call(
                ("Delete_memory", {"memory_id": memory_id, "confirmation": True}),
                ("Add_memory", {"content": content}),
            )
        return Summariser.conclude(self, said)


class Guesser(Hoarder):
    """Stores each message, retrieves, and answers by some name of what it finds."""

    def conclude(self, said):
        if not self.results:
            return super().conclude(said)
        asked = set(names_in(self.task.query))
        names = [n for _, text in _ENTRY.findall(said.text) for n in names_in(text)[1:]]
        found = [name for name in names if name not in asked]
        return answer(found[-1] if found else "unknown")


class Honest:
    """The scripted agent of the warm-up without its faults."""

    def __init__(self, task: Task):
        self.task = task
        self.agent = ScriptedAgent(task, _FAULTLESS, np.random.default_rng(0))
        self.found: dict[str, str] | None = None

    def respond(self, request: Generate) -> str:
        return self.agent.respond(request)

    def conclude(self) -> str:
        """The answer, from what was found."""
        return self.agent._conclude(tuple((self.found or {}).values()))


class HonestWithDummies(Honest):
    """The same, with a summary of one message, a retrieval by the query, an update by a stop."""

    def respond(self, request):
        said = request.context.messages[-1]
        if request.purpose == "summary":
            return "x"
        if request.stage == 2:
            return call(("Summary_context", {"span": "1"}))
        if request.stage == 1:
            return super().respond(request)
        if said.kind is Kind.QUERY:
            return call(("Retrieve_memory", {"query": said.text}))
        if self.found is None:
            self.found = dict(_ENTRY.findall(said.text))
            return self.after_retrieval(said)
        return self.conclude()

    def after_retrieval(self, said: Message) -> str:
        if not self.found:
            return self.conclude()
        memory_id, content = list(self.found.items())[-1]
        return call(("Update_memory", {"memory_id": memory_id, "content": f"{content} ."}))


class HonestInflater(HonestWithDummies):
    """The same, that fills its context in order to empty it."""

    def respond(self, request):
        if request.stage == 2 and request.purpose == "act":
            return answer("Noted.", thought="so " * 60)
        if request.purpose == "summary":
            return " ".join(names_in(self.task.query))
        return super().respond(request)

    def after_retrieval(self, said):
        return call(("Summary_context", {"span": "all"}), thought="so " * 20)


class HonestReverser(HonestWithDummies):
    """The same, that stores what is not true in order to take it back."""

    def respond(self, request):
        text = super().respond(request)
        if request.stage == 1 and '"Add_memory"' in text:
            fact = next(f for f in self.task.supporting_facts + self.task.stale_facts if f in text)
            lie = f"It is not true that {fact}"
            return call(("Add_memory", {"content": fact}), ("Add_memory", {"content": lie}))
        if request.stage == 2:
            return answer("Noted.")
        return text

    def after_retrieval(self, said):
        lies = [i for i, content in (self.found or {}).items() if "not true" in content]
        self.found = {i: c for i, c in (self.found or {}).items() if i not in lies}
        if not lies:
            return self.conclude()
        return call(*(("Delete_memory", {"memory_id": i, "confirmation": True}) for i in lies))


class HonestDeleter(HonestWithDummies):
    """The same, that deletes what it has looked up."""

    def after_retrieval(self, said):
        if not self.found:
            return self.conclude()
        return call(
            *(("Delete_memory", {"memory_id": i, "confirmation": True}) for i in self.found)
        )


# In the order of tables; the first does nothing, those behind it never try to answer.
UNKNOWN = (
    Mute, Summariser, DummyWriter, Hoarder, Duplicator, NameLister, Filterer, Inflater, Reverser,
    Renewer,
)  # fmt: skip
ANSWERING = (Guesser, Honest, HonestWithDummies, HonestInflater, HonestReverser, HonestDeleter)


class _Backend:
    """Answers generations with one scripted policy per slot."""

    slots = 8

    def __init__(self, chat: ChatEncoder, policy: Callable[[Task], Mute | Honest]):
        self._chat, self._policy = chat, policy
        self._playing: dict[int, Mute | Honest] = {}
        self._done: list[tuple[int, Generated]] = []

    def begin(self, slot: int, rollout: Rollout) -> None:
        self._playing[slot] = self._policy(rollout.task)

    def submit(self, slot: int, request: Generate) -> None:
        text = self._playing[slot].respond(request)
        ids = (*self._chat.encode(text), self._chat.stop_id)[: request.max_tokens]
        self._done.append((slot, Generated(ids, np.zeros(len(ids), np.float32))))

    def step(self) -> list[tuple[int, Generated]]:
        done, self._done = self._done, []
        return done


class Stage:
    """Where scripted policies play: the quickstart's tokenizer, memory and budgets."""

    def __init__(self, config: EpisodeConfig = QUICKSTART):
        tokenizer = tokenizers.from_file(loading.assets("tiny") / "tokenizer.json")
        self._chat = ChatEncoder(tokenizer, CHATML)
        self._rules = EpisodeRules(config, self._chat)
        self._store = MemoryStore.create(
            make_embedder("hashed_ngrams"), rollouts=_Backend.slots, entries=16
        )

    def play(
        self, tasks: Sequence[Task], policy: Callable[[Task], Mute | Honest]
    ) -> list[Trajectory]:
        """One episode of each task."""
        rollouts = [Rollout(task, jax.random.key(0)) for task in tasks]
        return run_episodes(rollouts, self._rules, self._store, _Backend(self._chat, policy))
