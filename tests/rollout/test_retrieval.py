"""What an episode retrieves unasked: beside messages of Stage 1, and at every step (RAG)."""

import dataclasses

import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.protocol.events import FormatEvent, RetrievalEvent
from agemem_jax.protocol.messages import Kind
from agemem_jax.protocol.prompts import tool_call_text
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.total import RewardConfig, compute_rewards
from agemem_jax.rollout.call_counts import count_calls
from agemem_jax.rollout.episode_config import EpisodeConfig
from tests.rollout.scripted import NOTED, TASK, answer, call, play

STORED = call("Add_memory", content="Ana lives in Oslo.")


@pytest.fixture
def config():
    return EpisodeConfig(
        max_context_tokens=900, max_rounds=3, rounds_per_message=2, prompt_style="compact",
        retrieve_each_step=True,
    )  # fmt: skip


def retrievals(trajectory, *stages):
    events = [e for e in trajectory.events if isinstance(e, RetrievalEvent)]
    return [e for e in events if e.stage in stages]


def test_a_rag_variant_retrieves_for_the_newest_message_before_every_action(chat, store, config):
    more = call("Add_memory", content="Bo lives in Bergen.")
    trajectory, requests = play(
        chat, store, config, STORED, NOTED, NOTED, more, NOTED, more, "no tags", answer("Oslo")
    )
    actions = [request for request in requests if request.stage > 1]
    events = retrievals(trajectory, 2, 3)
    assert [e.step for e in events] == [r.step for r in actions]
    assert [e.stage for e in events] == [2, 2, 3, 3, 3]
    for event, request in zip(events, actions, strict=True):
        newest = request.context.messages[-1]
        assert newest.text.startswith(f"{event.query}\nMemories:\n")
        assert all(entry.content in newest.text for entry in event.retrieved)
    assert [r.context.messages[-1].kind for r in actions] == [
        Kind.DISTRACTOR, Kind.TOOL_RESULT, Kind.QUERY, Kind.TOOL_RESULT, Kind.TOOL_RESULT,
    ]  # fmt: skip
    # No message is rewritten: every prompt continues the one before it.
    for before, after in zip(actions, actions[1:], strict=False):
        assert after.prompt[: len(before.prompt)] == before.prompt


def test_nothing_is_retrieved_behind_the_last_action_of_a_message_or_of_all(chat, store, config):
    once = dataclasses.replace(config, rounds_per_message=1, max_rounds=1)
    trajectory, requests = play(chat, store, once, STORED, NOTED, "no tags", "no tags")
    assert [e.step for e in retrievals(trajectory, 2, 3)] == [2, 3]
    assert len(requests) == 4


def test_without_the_option_only_stage_1_retrieves_and_says_so(chat, store, config):
    plain = dataclasses.replace(config, retrieve_each_step=False)
    trajectory, _ = play(chat, store, plain, STORED, NOTED, NOTED, NOTED, answer("Oslo"))
    assert not retrievals(trajectory, 2, 3)
    first, second = retrievals(trajectory, 1)
    assert (first.query, first.retrieved) == (TASK.messages[0], ())
    assert (second.query, second.step) == (TASK.messages[1], 2)
    assert [entry.content for entry in second.retrieved] == ["Ana lives in Oslo."]
    without = dataclasses.replace(plain, auto_retrieve=0)
    trajectory, _ = play(chat, store, without, STORED, NOTED, NOTED, NOTED, answer("Oslo"))
    assert not retrievals(trajectory, 1)


@pytest.mark.parametrize("each_step, relevance", [(True, 1.0), (False, 0.0)])
def test_entries_retrieved_at_each_step_count_for_relevance_and_are_no_calls(
    chat, store, config, each_step, relevance
):
    config = dataclasses.replace(config, retrieve_each_step=each_step)
    trajectory, _ = play(chat, store, config, STORED, NOTED, NOTED, NOTED, answer("Oslo"))
    (reward,) = compute_rewards([trajectory], RewardConfig(), OfflineJudge())
    assert reward.parts["relevance"] == relevance
    counts = count_calls(trajectory)
    assert (counts.calls, counts.by_tool["Retrieve_memory"]) == (1, 0)


@pytest.mark.parametrize("entries", [16, 64])
def test_a_configured_top_k_is_answered_by_any_memory(chat, config, entries):
    store = MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=1, entries=entries)
    wide = dataclasses.replace(config, auto_retrieve=20, top_k=20, max_calls=20)
    facts = [f"Ana has the number {number}." for number in range(16)]
    calls = tool_call_text([("Add_memory", {"content": fact}) for fact in facts])
    trajectory, requests = play(
        chat, store, dataclasses.replace(wide, max_context_tokens=9000),
        f"<think>So.</think>{calls}", NOTED, NOTED, NOTED,
        call("Retrieve_memory", query="Ana"), answer("Oslo"),
    )  # fmt: skip
    for event in retrievals(trajectory, 1, 2, 3)[-3:]:
        assert len(event.retrieved) == 16
    assert all(fact in requests[-1].context.messages[-1].text for fact in facts)


def test_an_automatic_retrieval_that_fails_is_never_silent(chat, config):
    embedder = make_embedder("hashed_ngrams")
    store = MemoryStore.create(embedder, rollouts=1, entries=8, max_top_k=2)
    with pytest.raises(RuntimeError, match="top_k is 3; it must be between 1 and 2"):
        play(chat, store, config, STORED)


def test_what_is_wrong_beside_an_answer_is_shown_where_the_episode_goes_on(chat, store, config):
    plain = dataclasses.replace(config, retrieve_each_step=False)
    sloppy = "Fine. <answer>Noted.</answer>"
    trajectory, requests = play(
        chat, store, plain, NOTED, sloppy, sloppy, "Well. <think>a</think><answer>Oslo</answer>"
    )
    wrong = "Error: Start with <think>...</think>.\nError: Write nothing outside the tags."
    assert [m.text for m in requests[-1].context.messages].count(wrong) == 1
    response, told, query = requests[-1].context.messages[-3:]
    assert response.kind is Kind.RESPONSE and response.text == sloppy, "ids stay as sampled"
    assert (told.text, told.kind, query.kind) == (wrong, Kind.TOOL_RESULT, Kind.QUERY)
    assert trajectory.transcript[-1].role == "act", "in Stage 3 nobody would read it"
    assert [e.stage for e in trajectory.events if isinstance(e, FormatEvent)] == [1, 1, 2, 2, 3]
    # Nothing is added where nothing is wrong.
    _, requests = play(chat, store, plain, NOTED, NOTED, NOTED, answer("Oslo"))
    assert not any(m.kind is Kind.TOOL_RESULT for m in requests[-1].context.messages)
