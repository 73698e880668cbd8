"""Episodes played by hand-written responses: what tools do to context and memory."""

import dataclasses

import numpy as np
import pytest

from agemem_jax.protocol.events import (
    FormatEvent,
    OutcomeEvent,
    OverflowEvent,
    RoundLimitEvent,
)
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from tests.rollout.scripted import NOTED, TASK, answer, call, play, tools


@pytest.fixture
def config():
    return EpisodeConfig(max_context_tokens=900, max_rounds=2, prompt_style="compact")


def memory_id(request):
    """The id that the newest message of the context names."""
    return request.context.messages[-1].text.split("mem_")[1][:8]


def test_memory_survives_the_reset_and_the_context_does_not(chat, store, config):
    trajectory, requests = play(
        chat, store, config,
        call("Add_memory", content="Ana lives in Paris."),
        lambda r: call(
            "Update_memory", memory_id=f"mem_{memory_id(r)}", content="Ana lives in Oslo."
        ),
        NOTED,
        call("Retrieve_memory", query="Ana"),
        answer("Oslo"),
    )  # fmt: skip
    assert [(e.name, e.ok, e.changed) for e in tools(trajectory)] == [
        ("Add_memory", True, True),
        ("Update_memory", True, True),
        ("Retrieve_memory", True, False),
    ]
    assert list(trajectory.memory.values()) == ["Ana lives in Oslo."]
    assert trajectory.outcome.answer == "Oslo"
    assert "Paris" in requests[1].context.text, "Stage 1 retrieves beside the message"
    assert "Paris" not in requests[2].context.text, "Stage 2 starts from an empty context"
    assert "Bergen" in requests[3].context.text, "Stage 3 continues from Stage 2"
    assert "Ana lives in Oslo." in requests[4].context.messages[-1].text


def test_a_long_history_comes_in_sessions_that_share_the_memory_alone(chat, store, config):
    task = dataclasses.replace(TASK, messages=tuple(f"Ana has {n} cats." for n in range(5)))
    sessions = dataclasses.replace(config, messages_per_session=2, auto_retrieve=1)
    replies = [call("Add_memory", content="Ana has cats."), *[NOTED] * 5, answer("Oslo")]
    trajectory, requests = play(chat, store, sessions, *replies, task=task)
    told = [[n for n in range(5) if f"{n} cats" in r.context.text] for r in requests[:5]]
    assert told == [[0], [0, 1], [2], [2, 3], [4]]
    assert "Ana has cats." in requests[2].context.text, "what was stored is retrieved"
    assert trajectory.outcome.answer == "Oslo"
    with pytest.raises(ValueError, match="messages_per_session is -1; it must be 0"):
        dataclasses.replace(config, messages_per_session=-1)


def test_every_action_is_trained_once_after_exactly_its_context(chat, store, config):
    trajectory, requests = play(
        chat, store, config,
        call("Add_memory", content="Ana lives in Paris."),
        NOTED,
        call("Summary_context", span="all"),
        "Bo lives in Bergen.",
        call("Retrieve_memory", query="Ana"),
        answer("Oslo"),
    )  # fmt: skip
    assert requests[3].purpose == "summary"
    seen = {}
    for segment in trajectory.segments:
        for step in sorted(set(segment.step_index[segment.action_mask].tolist())):
            assert step not in seen
            start = int(np.argmax(segment.step_index == step))
            seen[step] = tuple(segment.token_ids[:start].tolist())
    assert seen == {request.step: request.prompt for request in requests}


def test_a_filter_removes_what_resembles_it_and_never_the_query(chat, store, config):
    trajectory, requests = play(
        chat, store, config,
        NOTED, NOTED, NOTED,
        call("Filter_context", criteria="Bo lives in Bergen."),
        answer("Oslo"),
    )  # fmt: skip
    (event,) = tools(trajectory)
    assert event.ok and event.changed and event.tokens_after < event.tokens_before
    assert "Bo lives in Bergen." not in [m.text for m in requests[-1].context.messages]
    assert any(TASK.query in m.text for m in requests[-1].context.messages)


def test_a_filter_that_matches_nothing_changes_nothing(chat, store, config):
    trajectory, _ = play(
        chat, store, config,
        NOTED, NOTED, NOTED, call("Filter_context", criteria="quantum zebra"), answer("Oslo"),
    )  # fmt: skip
    (event,) = tools(trajectory)
    assert event.ok and not event.changed


def test_a_summary_replaces_the_messages_by_what_the_policy_wrote(chat, store, config):
    trajectory, requests = play(
        chat, store, config,
        NOTED, NOTED, NOTED, call("Summary_context", span="full"), "Talk of Bo.", answer("Oslo"),
    )  # fmt: skip
    texts = [m.text for m in requests[-1].context.messages]
    assert "Summary: Talk of Bo." in texts and "Bo lives in Bergen." not in texts
    assert any(TASK.query in text for text in texts)
    assert tools(trajectory)[0].content == "Talk of Bo."


@pytest.mark.parametrize(
    "reply, told",
    [
        (call("Update_memory", memory_id="mem_00000000", content="x"), "mem_00000000"),
        (call("Forget_everything"), "Forget_everything"),
        (call("Add_memory"), "content"),
        ("no tags at all", "Error"),
    ],
)
def test_a_wrong_response_is_answered_and_leaves_the_memory_alone(chat, store, config, reply, told):
    trajectory, requests = play(chat, store, config, reply, NOTED, NOTED, answer("Oslo"))
    assert told in requests[1].context.text
    assert not trajectory.memory
    wrong = [e for e in trajectory.events if isinstance(e, FormatEvent) or not getattr(e, "ok", 1)]
    assert wrong


def test_the_round_limit_fires_only_without_an_answer(chat, store, config):
    look = call("Retrieve_memory", query="Ana")
    late, _ = play(chat, store, config, NOTED, NOTED, NOTED, look, answer("Oslo"))
    assert not any(isinstance(e, RoundLimitEvent) for e in late.events)
    never, _ = play(chat, store, config, NOTED, NOTED, NOTED, look, look)
    assert isinstance(never.events[-1], RoundLimitEvent)


def test_an_overflow_ends_the_episode(chat, store, config):
    small = dataclasses.replace(config, max_context_tokens=240)
    long = call("Add_memory", content="many words " * 40)
    trajectory, _ = play(chat, store, small, long)
    assert isinstance(trajectory.events[-1], OverflowEvent)
    assert trajectory.outcome is None


def test_an_answer_records_the_context_without_system_and_query(chat, store, config):
    trajectory, _ = play(chat, store, config, NOTED, NOTED, NOTED, answer("Oslo"))
    event = trajectory.events[-1]
    assert isinstance(event, OutcomeEvent) and event.stage == 3
    assert "Bergen" in event.context_text and TASK.query not in event.context_text


def test_stages_can_be_left_out(chat, store, config):
    without = dataclasses.replace(config, stages=(1, 3))
    _, requests = play(chat, store, without, NOTED, NOTED, answer("Oslo"))
    assert [request.stage for request in requests] == [1, 1, 3]
    assert "Paris" not in requests[2].context.text


def test_a_budget_below_the_system_prompt_is_refused_in_a_sentence(chat):
    with pytest.raises(ValueError, match="system prompt alone takes"):
        EpisodeRules(EpisodeConfig(max_context_tokens=100, prompt_style="compact"), chat)
