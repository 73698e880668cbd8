"""What the policy is told of its context, and what is recorded of edits and of what was given."""

import dataclasses
import json
import re

import pytest

from agemem_jax.protocol.events import OutcomeEvent, OverflowEvent
from agemem_jax.protocol.messages import Kind
from agemem_jax.rollout import trajectory_json
from agemem_jax.rollout.episode_config import EpisodeConfig
from tests.rollout.scripted import NOTED, TASK, answer, call, play, tools

CONFIG = EpisodeConfig(
    prompt_style="compact", max_context_tokens=1200, max_response_tokens=96, max_rounds=4
)
TOLD = dataclasses.replace(CONFIG, show_context_use=True)
_LINE = re.compile(r"\nContext: (\d+) of (\d+) tokens\.$")


def long_episode():
    """Memory, summary, filter, retrieval, an error, an answer."""
    return (
        call("Add_memory", content="Ana lives in Paris."),
        lambda request: call("Add_memory", content="Ana lives in Oslo."),
        call("Summary_context", span="1"),
        "Talk about Bo.",
        call("Filter_context", criteria="Bo lives in Bergen."),
        call("Retrieve_memory", query="Ana"),
        call("Delete_memory", memory_id="mem_00000000", confirmation=True),
        answer("Oslo"),
    )


def test_every_message_ends_with_the_exact_length_of_the_prompt(chat, store):
    played, requests = play(chat, store, TOLD, *long_episode())
    acts = [request for request in requests if request.purpose == "act"]
    lines = {}  # by step: of the last message in front of the response
    for entry in played.transcript:
        if entry.role not in ("act", "summary"):
            used, budget = map(int, _LINE.search(entry.text).groups())
            assert budget == 1200
            lines[entry.step] = used
    assert [lines[request.step] for request in acts] == [len(r.prompt) for r in acts]


@pytest.mark.parametrize("padding", range(0, 60, 3))
def test_the_number_counts_its_own_digits(chat, store, padding):
    """Also where the line itself takes the prompt from two digits to three, and so on."""
    task = dataclasses.replace(TASK, messages=("so " * padding + "so.",), distractors=())
    config = dataclasses.replace(TOLD, stages=(1, 3))
    played, requests = play(chat, store, config, NOTED, answer("Oslo"), task=task)
    told = [e.text for e in played.transcript if e.role in ("task_message", "query")]
    for text, request in zip(told, requests, strict=True):
        assert int(_LINE.search(text)[1]) == len(request.prompt)


def test_tools_and_rewards_see_messages_without_the_line(chat, store):
    played, requests = play(chat, store, TOLD, *long_episode())
    for request in requests:
        assert not any("Context: " in message.text for message in request.context.messages)
    outcome = played.outcome
    assert "Context: " not in outcome.context_text + outcome.shown_text
    assert not any("Context: " in text for event in tools(played) for text in event.removed)
    prompt = chat.tokenizer.decode(requests[-1].prompt)
    assert "of 1200 tokens." in prompt, "which the policy reads"


def test_without_the_option_nothing_is_told(chat, store):
    played, _ = play(chat, store, CONFIG, *long_episode())
    assert not any("Context: " in entry.text for entry in played.transcript)


def test_an_edit_records_what_it_removed_and_no_response_of_the_policy(chat, store):
    played, _ = play(chat, store, CONFIG, *long_episode())
    summary = next(event for event in tools(played) if event.name == "Summary_context")
    assert summary.removed == ("Bo lives in Bergen.",)
    assert summary.tokens_after > summary.tokens_before, "what is short can only grow"
    everything = (NOTED, NOTED, NOTED, call("Summary_context", span="all"), "Short.", answer("x"))
    played, _ = play(chat, store, CONFIG, *everything)
    (summary,) = tools(played)
    assert summary.removed == ("Bo lives in Bergen.",), "the response of Stage 2 is its own"


def test_updates_and_deletes_record_what_an_entry_held_before(chat, store):
    def first(request):
        return re.search(r"mem_[0-9a-f]{8}", request.context.text)[0]

    played, _ = play(
        chat, store, CONFIG,
        call("Add_memory", content="Ana lives in Paris."),
        lambda r: call("Update_memory", memory_id=first(r), content="Ana lives in Oslo."),
        NOTED,
        call("Retrieve_memory", query="Ana"),
        lambda r: call("Delete_memory", memory_id=first(r), confirmation=True),
        answer("Oslo"),
    )  # fmt: skip
    added, updated, _, deleted = tools(played)
    assert added.previous is None
    assert (updated.previous, updated.content) == ("Ana lives in Paris.", "Ana lives in Oslo.")
    assert deleted.previous == "Ana lives in Oslo."


def test_the_outcome_tells_what_was_given_apart_from_what_the_policy_added(chat, store):
    quiet, _ = play(chat, store, CONFIG, NOTED, NOTED, NOTED, answer("Oslo"))
    busy, requests = play(
        chat, store, CONFIG,
        call("Add_memory", content="Ana lives in Oslo."), NOTED,
        f"<think>{'well ' * 20}</think><answer>Noted.</answer>",
        call("Retrieve_memory", query="Ana"), answer("Oslo"),
    )  # fmt: skip
    assert quiet.outcome.given_tokens == busy.outcome.given_tokens
    assert busy.outcome.context_tokens > quiet.outcome.context_tokens
    (request,) = [r for r in requests if r.step == busy.outcome.step]
    given = (Kind.SYSTEM, Kind.DISTRACTOR, Kind.QUERY)
    shown = [m for m in request.context.messages if m.kind in given]
    length = sum(len(m.token_ids) for m in shown) + len(chat.generation_prompt)
    assert busy.outcome.given_tokens == length == busy.outcome.kept_tokens
    assert "well well" in busy.outcome.context_text
    assert "well well" not in busy.outcome.shown_text
    assert "Ana lives in Oslo." in busy.outcome.shown_text, "what was retrieved is shown"


def test_the_outcome_tells_what_edits_left_of_what_was_given(chat, store):
    summarised = (call("Summary_context", span="all"), "It is about " + "many " * 9 + "things.")
    filtered = (call("Filter_context", criteria="Bo lives in Bergen."),)
    for edit, longer in ((summarised, True), (filtered, False)):
        played, requests = play(chat, store, CONFIG, NOTED, NOTED, NOTED, *edit, answer("x"))
        (request,) = [r for r in requests if r.step == played.outcome.step]
        left = (Kind.SYSTEM, Kind.SUMMARY, Kind.QUERY)
        kept = [m for m in request.context.messages if m.kind in left]
        assert Kind.DISTRACTOR not in [m.kind for m in request.context.messages]
        outcome, length = played.outcome, sum(len(m.token_ids) for m in kept)
        assert outcome.kept_tokens == length + len(chat.generation_prompt)
        assert (outcome.kept_tokens > outcome.given_tokens) == longer


def test_a_trajectory_knows_how_full_its_contexts_were(chat, store):
    played, requests = play(chat, store, CONFIG, NOTED, NOTED, NOTED, answer("Oslo"))
    assert played.context_shares == [len(r.prompt) / 1200 for r in requests]
    small = dataclasses.replace(CONFIG, max_context_tokens=len(requests[0].prompt) + 20)
    over, _ = play(chat, store, small, NOTED, NOTED, NOTED, answer("Oslo"))
    assert isinstance(over.events[-1], OverflowEvent)
    assert over.context_shares[-1] == max(over.context_shares) > 1.0


def test_lines_keep_all_of_it_and_those_of_earlier_versions_are_read(chat, store):
    played, _ = play(chat, store, CONFIG, *long_episode())
    line = trajectory_json.to_line(0, played)
    _, read = trajectory_json.from_line(line, {0: TASK})
    assert read.events == played.events and read.max_context_tokens == 1200
    values = json.loads(line)
    del values["max_context_tokens"]
    for event in values["events"]:
        for name in ("previous", "removed", "shown_text", "given_tokens", "kept_tokens"):
            event.pop(name, None)
    _, old = trajectory_json.from_line(json.dumps(values), {0: TASK})
    assert old.context_shares == [] and old.prompt_tokens == played.prompt_tokens
    outcome = old.outcome
    assert isinstance(outcome, OutcomeEvent) and outcome.given_tokens is None
    assert outcome.kept_tokens is None
    assert all(event.removed == () and event.previous is None for event in tools(old))
