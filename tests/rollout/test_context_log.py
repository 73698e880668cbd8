"""What a trajectory says of its prompts, compared with the prompts."""

import dataclasses

import pytest

from agemem_jax.protocol.messages import Kind
from agemem_jax.report.contents import Played
from agemem_jax.report.view import view
from agemem_jax.rollout.episode_config import EpisodeConfig
from tests.rollout.scripted import NOTED, TASK, answer, call, play

TWO = dataclasses.replace(TASK, distractors=("Bo lives in Bergen.", "Cy sells cars."))


@pytest.fixture
def config():
    return EpisodeConfig(max_context_tokens=900, max_rounds=3, prompt_style="compact")


def without_system(context):
    return [m.text for m in context.messages if m.kind is not Kind.SYSTEM]


def held_by_record(trajectory, step):
    """The messages that the prompt of a step held, as the record says, summaries as written."""
    shown = view(Played(trajectory, "a method", "a record", 0, "a group"))
    messages = [message for stage in shown.stages.values() for message in stage]
    return {
        place for place, m in enumerate(messages)
        if m.since <= step and (m.until is None or step < m.until)
    }  # fmt: skip


@pytest.mark.parametrize(
    "replies",
    [
        (NOTED, NOTED, NOTED, NOTED, answer("Oslo")),
        (call("Add_memory", content="Ana lives in Oslo."), NOTED, NOTED,
         call("Filter_context", criteria="Bo lives in Bergen."), answer("Oslo")),
        (NOTED, call("Summary_context", span="all"), "Ana lives in Oslo.",
         NOTED, call("Summary_context", span="2"), "Bo and Cy.",
         call("Summary_context", span="all"), "All of it.", answer("Oslo")),
        (NOTED, NOTED, NOTED, NOTED, call("Filter_context", criteria="Cy sells cars."),
         call("Summary_context", span="all"), "Bergen.", answer("Oslo")),
        # The last edit has no prompt behind it.
        (NOTED, NOTED, NOTED, NOTED, call("Retrieve_memory", query="a"),
         call("Retrieve_memory", query="b"), call("Filter_context", criteria="Cy sells cars.")),
    ],
    ids=["nothing", "a filter", "summaries", "both", "at the end"],
)  # fmt: skip
def test_the_record_says_of_every_step_which_messages_its_prompt_held(chat, store, config, replies):
    trajectory, requests = play(chat, store, config, *replies, task=TWO)
    entries = trajectory.transcript
    assert len(trajectory.left) == len(entries)
    for request in requests:
        if request.purpose == "summary":
            continue  # its prompt is what it summarises, and not the conversation
        places = held_by_record(trajectory, request.step)
        told = [
            f"Summary: {entries[p].text.strip()}" if entries[p].role == "summary"
            else entries[p].text for p in places
        ]  # fmt: skip
        assert sorted(told) == sorted(without_system(request.context)), request.step


def test_what_an_edit_takes_is_told_apart_from_what_a_reset_leaves(chat, store, config):
    trajectory, _ = play(
        chat, store, config, NOTED, NOTED, NOTED,
        call("Filter_context", criteria="Bo lives in Bergen."), answer("Oslo"), task=TWO,
    )  # fmt: skip
    left = dict(zip([e.text for e in trajectory.transcript], trajectory.left, strict=True))
    assert left["Bo lives in Bergen."] == 4
    assert left["By the way, Ana lives in Paris."] is None
    shown = view(Played(trajectory, "a method", "a record", 0, "a group"))
    (edited,) = [m for stage in shown.stages.values() for m in stage if m.edited]
    assert (edited.editor, edited.until) == ("Filter_context", 4)
    assert {message.until for message in shown.stages[1]} == {2}, "the reset before Stage 2"
