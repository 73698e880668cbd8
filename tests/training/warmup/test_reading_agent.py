"""The scripted agent of methods without calls that store, and where some tools are left out."""

import dataclasses
import functools
import types

import jax
import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.methods.agemem import AGEMEM
from agemem_jax.methods.registry import find_method
from agemem_jax.models import loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.protocol.events import FormatEvent, ToolEvent
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import Episode, EpisodeRules
from agemem_jax.tasks.multihop import MultihopSource
from agemem_jax.training.configuration import run_config
from agemem_jax.training.warmup.corpus import agent_for
from agemem_jax.training.warmup.demonstrations import Imperfection, ScriptBackend
from experiments.configs import quickstart

PERFECT = Imperfection(**{field.name: 0.0 for field in dataclasses.fields(Imperfection)})
TIDY = dataclasses.replace(PERFECT, tidy=1.0)
SOURCE = MultihopSource("train", 12)


def past():
    return SOURCE


@pytest.fixture(scope="module")
def play():
    """Plays twelve tasks within the budgets of the quickstart."""
    chat = ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)
    store = MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=4, entries=16)
    episode = run_config.build(quickstart.get_config()).episode

    def play(method, imperfection=PERFECT, **changes):
        player = types.SimpleNamespace(
            chat=chat, store=store, past=past,
            rules=lambda config, start=Episode: EpisodeRules(config, chat, start=start),
        )  # fmt: skip
        rules = method.rules(player, dataclasses.replace(episode, **changes))
        agent = functools.partial(agent_for, rules)
        backend = ScriptBackend(chat, imperfection, seed=0, slots=4, agent=agent)
        rollouts = [Rollout(SOURCE[index], jax.random.key(0)) for index in range(12)]
        played = run_episodes(rollouts, rules, store, backend)
        events = [event for each in played for event in each.events]
        assert not any(isinstance(event, FormatEvent) for event in events)
        assert all(event.ok for event in events if isinstance(event, ToolEvent))
        return played

    return play


def right(played):
    return sum(t.outcome.answer == t.task.answer for t in played)


@pytest.mark.parametrize("name", ["full_context", "file_search", "archive_turns", "resum"])
def test_what_the_prompt_shows_is_enough_to_answer(play, name):
    assert right(play(find_method(name))) >= 11
    assert right(play(find_method(name), dataclasses.replace(PERFECT, wrong_answer=1.0))) < 6


def test_what_is_missing_is_searched_by_what_was_found_and_not_by_one_that_skips_it(play):
    method = find_method("file_search(first=False)")
    searched = play(method)
    calls = [[e.name for e in t.events if isinstance(e, ToolEvent)] for t in searched]
    assert all(1 <= len(each) <= 2 and set(each) == {"Search_history"} for each in calls)
    assert right(searched) >= 8
    hasty = play(method, dataclasses.replace(PERFECT, skip_retrieve=1.0))
    assert {t.outcome.answer for t in hasty} == {"unknown"}


def test_a_summary_that_forgets_facts_leaves_nothing_to_answer_by(play):
    forgetful = dataclasses.replace(PERFECT, skip_store=1.0)
    assert right(play(find_method("resum"), forgetful)) == 0
    assert right(play(find_method("full_context"), forgetful)) >= 11


@pytest.mark.parametrize("name", ["no_memory", "exprag"])
def test_without_the_history_it_knows_nothing(play, name):
    assert {t.outcome.answer for t in play(find_method(name))} == {"unknown"}


@pytest.mark.parametrize(
    "tools",
    [
        ("Add_memory", "Update_memory", "Delete_memory", "Retrieve_memory"),
        ("Add_memory", "Retrieve_memory", "Filter_context"),
        ("Add_memory",),
    ],
)
def test_no_tool_is_called_that_is_left_out(play, tools):
    played = play(AGEMEM, TIDY, tools=tools)
    called = {e.name for t in played for e in t.events if isinstance(e, ToolEvent)}
    assert called <= set(tools) and "Add_memory" in called
    assert right(played) == 0 if "Retrieve_memory" not in tools else right(played) >= 9
