"""The scripted agent plays memory systems to a good end, and errs where it is told to."""

import dataclasses
import functools

import jax
import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.methods.registry import find_method
from agemem_jax.models import loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.protocol.events import TrimmedPromptEvent
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.memory_reward import memory_qualities
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.tasks.multihop import MultihopSource
from agemem_jax.training.configuration import run_config
from agemem_jax.training.warmup.demonstrations import Imperfection, ScriptBackend
from agemem_jax.training.warmup.system_agent import SystemAgent
from experiments.configs import quickstart
from tests.methods.playing import Player

PERFECT = Imperfection(**{field.name: 0.0 for field in dataclasses.fields(Imperfection)})


@pytest.fixture(scope="module")
def play():
    """Plays ten tasks within the budgets of the quickstart."""
    chat = ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)
    store = MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=4, entries=16)
    episode = run_config.build(quickstart.get_config()).episode
    source = MultihopSource("train", 10)

    def play(method, imperfection):
        agent = functools.partial(SystemAgent, method)
        backend = ScriptBackend(chat, imperfection, seed=0, slots=4, agent=agent)
        rollouts = [Rollout(source[index], jax.random.key(0)) for index in range(10)]
        return run_episodes(rollouts, method.rules(Player(chat), episode), store, backend)

    return play


@pytest.mark.parametrize("name", ["mem0", "mem0_graph", "langmem"])
def test_one_that_does_not_err_remembers_all_facts_and_answers_all_questions(play, name):
    played = play(find_method(name), PERFECT)
    assert memory_qualities(played, OfflineJudge()) == [1.0] * 10
    assert [t.outcome.answer for t in played] == [t.task.answer for t in played]
    assert not any(isinstance(e, TrimmedPromptEvent) for t in played for e in t.events)


def test_one_that_does_not_err_keeps_what_is_outdated_where_notes_are_never_replaced(play):
    played = play(find_method("a_mem"), PERFECT)
    changed = [bool(t.task.stale_facts) for t in played]
    assert 0 < sum(changed) < 10
    qualities = memory_qualities(played, OfflineJudge())
    assert [quality < 1.0 for quality in qualities] == changed
    right = [t.outcome.answer == t.task.answer for t in played]
    assert sum(right) >= 9
    assert any(note.count("linked") for t in played for note in t.memory.values())


def test_one_that_ignores_changes_and_forgets_facts_remembers_less(play):
    faults = dataclasses.replace(PERFECT, ignore_change=1.0, skip_store=0.5)
    qualities = memory_qualities(play(find_method("mem0"), faults), OfflineJudge())
    assert 0.0 < sum(qualities) / 10 < 0.8


def test_a_system_that_demonstrates_nothing_is_refused_in_a_sentence(play):
    class Silent(type(find_method("mem0"))):
        def demonstrate(self, request, agent):
            return None

    with pytest.raises(ValueError, match="no demonstrations of Mem0 .* warmup.steps to 0"):
        play(Silent(), PERFECT)
