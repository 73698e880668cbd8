"""What is made of a trajectory to be shown."""

import dataclasses

from agemem_jax.protocol.events import (
    OutcomeEvent,
    OverflowEvent,
    RetrievedEntry,
    RoundLimitEvent,
    ToolEvent,
)
from agemem_jax.report import memory_life
from agemem_jax.report.contents import Played
from agemem_jax.report.view import row, view
from agemem_jax.rollout.trajectory import Trajectory
from tests.report import builders


def shown(trajectory, **fields):
    return view(Played(trajectory, "AgeMem", "agemem-1", 0, "group", **fields))


def test_messages_stand_in_their_stages_with_what_came_of_them():
    v = shown(builders.played())
    assert [len(messages) for messages in v.stages.values()] == [4, 2, 4]
    told, responded, unasked, _ = v.stages[1]
    assert [part.kind for part in responded.parts] == ["think", "tool_call"]
    assert [event.name for event in responded.events] == ["Add_memory"]
    assert not told.events and unasked.events[0].retrieved[0].memory_id == "mem_1"
    assert (told.since, responded.since, told.until) == (0, 1, 2)


def test_a_message_that_an_edit_took_out_names_the_tool_and_the_step():
    distractor, response = shown(builders.played()).stages[2]
    assert (distractor.editor, distractor.since, distractor.until) == ("Filter_context", 2, 3)
    assert response.editor is None and response.until is None


def test_a_record_that_does_not_say_what_was_taken_out_is_no_exact_one():
    trajectory = builders.played()
    assert shown(trajectory).exact
    trajectory.left = None
    assert not shown(trajectory).exact
    trajectory.events = [e for e in trajectory.events if getattr(e, "effect", "") != "reduced"]
    assert shown(trajectory).exact, "nothing was edited"


def test_steps_have_their_tokens_calls_and_advantages():
    v = shown(builders.played(1), advantages=[0.5, -0.5, 0.0, 1.0, 2.0])
    assert [step.stage for step in v.steps] == [1, 1, 2, 3, 3]
    assert [step.share for step in v.steps] == [0.2, 0.24, 0.28, 0.32, 0.36]
    assert [step.advantage for step in v.steps] == [0.5, -0.5, 0.0, 1.0, 2.0]
    assert v.steps[3].calls == [("Retrieve_memory", True), ("No_tool", False)]


def test_a_memory_has_a_line_from_its_beginning_with_all_that_happened_to_it():
    (life,) = memory_life.lives(builders.played())
    assert [(mark.step, mark.what) for mark in life.marks] == [
        (0, "added"), (1, "shown"), (1, "updated"), (3, "retrieved"),
    ]  # fmt: skip
    assert [(v.step, v.text) for v in life.versions] == [
        (0, "Ana lives in Paris."), (1, "Ana lives in Oslo."),
    ]  # fmt: skip
    assert [(v.facts, v.stale) for v in life.versions] == [([], True), ([0], False)]
    assert life.ended is None


def test_a_deleted_memory_ends_and_a_failed_call_leaves_no_mark():
    trajectory = builders.played()
    gone = ToolEvent(2, 2, "Delete_memory", {}, ok=True, effect="deleted", memory_id="mem_1")
    failed = ToolEvent(2, 2, "Update_memory", {}, ok=False, memory_id="mem_1", content="No.")
    trajectory.events = [*trajectory.events[:3], failed, gone]
    (life,) = memory_life.lives(trajectory)
    assert life.ended == 2 and [mark.what for mark in life.marks][-1] == "deleted"
    assert len(life.versions) == 2


def test_a_memory_of_before_the_episode_appears_when_it_is_retrieved():
    found = (RetrievedEntry("mem_9", "Ana lives in Oslo.", 1.0),)
    trajectory = builders.played()
    trajectory.events = [builders.call(4, 3, "Retrieve_memory", retrieved=found)]
    (life,) = memory_life.lives(trajectory)
    assert life.begun == 4 and life.versions[0].text == "Ana lives in Oslo."


def test_every_way_to_end_is_told():
    trajectory = builders.played()
    ends = {
        "answered": OutcomeEvent(3, 4, 10, "", 100, answer="Oslo"),
        "goal reached": OutcomeEvent(3, 4, 10, "", 100, score=1.0, progress=1.0),
        "goal not reached": OutcomeEvent(3, 4, 10, "", 100, score=0.0, progress=0.5),
        "context overflowed": OverflowEvent(2, 2, 1200),
        "rounds used up": RoundLimitEvent(3, 4, 3),
    }
    for told, event in ends.items():
        trajectory.events = [event]
        assert shown(trajectory).outcome == told
    trajectory.events = []
    assert shown(trajectory).outcome == "no answer"
    assert shown(Trajectory.failed(trajectory.task, "It hung.")).outcome == "failed"


def test_the_row_of_the_table_counts_calls_by_tool_and_stage():
    values = row(7, shown(builders.played(1), reward={"total": 0.123456, "task": -0.5}))
    assert values["id"] == 7 and values["reward"] == 0.1235 and values["j"] == 0.0
    assert ["Filter_context", 2, 1, 0] in values["tally"]
    assert ["No_tool", 3, 0, 1] in values["tally"]
    assert (values["calls"], values["failed"], values["fullest"]) == (5, 1, 0.36)


def test_a_long_question_is_cut_in_the_table():
    trajectory = builders.played(evil="x" * 500)
    assert len(row(0, shown(trajectory))["question"]) == 160


def test_an_overflow_counts_for_the_fullest_context():
    trajectory = dataclasses.replace(builders.played(), events=[OverflowEvent(2, 5, 1200)])
    assert row(0, shown(trajectory))["fullest"] == 1.2
