"""What a page shows of one trajectory: its messages with their place in the context, its steps.

Pure functions from a record to a view; the templates only write down what stands here.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_jax.protocol.events import (
    DroppedMessagesEvent,
    Event,
    FormatEvent,
    OutcomeEvent,
    OverflowEvent,
    RetrievalEvent,
    RoundLimitEvent,
    ToolEvent,
)
from agemem_jax.report.contents import Played
from agemem_jax.report.memory_life import Life, lives
from agemem_jax.rollout.trajectory import Trajectory, TranscriptEntry

_PARTS = re.compile(r"<(think|tool_call|answer)>(.*?)(?:</\1>|\Z)", re.DOTALL)
_SAMPLED = ("act", "summary")
_TITLES = {
    "act": "policy", "summary": "policy writes a summary", "task_message": "message",
    "distractor": "distractor", "query": "query", "observation": "observation",
    "tool_result": "result",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a message: "think", "tool_call", "answer", or "text" outside of all tags."""

    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Message:
    """One entry of the transcript.

    Attributes:
      role: as recorded; `title` is what a reader is shown.
      step: of a response, or the step that was the first to see it.
      since: the first step whose prompt held it.
      until: the first step whose prompt did not any more; None where it stayed to the end.
      editor: the tool that took it out; None where a reset did, or nothing.
      parts: of its text.
      events: what came of the response: calls, errors; or what was shown with the message.
    """

    role: str
    title: str
    step: int
    since: int
    until: int | None
    editor: str | None
    parts: Sequence[Part]
    events: Sequence[Event]

    @property
    def edited(self) -> bool:
        return self.editor is not None


@dataclasses.dataclass(frozen=True)
class Step:
    """One generation.

    Attributes:
      number, stage: of it.
      tokens: of its prompt.
      share: of the budget that these are; None where the budget is not known.
      advantage: what it was trained with; None where it was not, or it is not known.
      calls: names of the tools called, with whether the call did its work.
      summary: whether it wrote a summary, whose prompt is not the conversation.
    """

    number: int
    stage: int
    tokens: int
    share: float | None
    advantage: float | None
    calls: Sequence[tuple[str, bool]]
    summary: bool


@dataclasses.dataclass(frozen=True)
class View:
    """Everything that is shown of a trajectory.

    Attributes:
      played: the record.
      outcome: how it ended, in words.
      answer: what was answered, "" without one.
      j: the judge's score of the answer, or whether the goal was reached; None without rewards.
      stages: messages by stage.
      steps: the generations.
      lives: of the memories.
      notes: events that end a stage or an episode, in sentences.
      exact: whether it is known which messages each prompt held.
    """

    played: Played
    outcome: str
    answer: str
    j: float | None
    stages: Mapping[int, Sequence[Message]]
    steps: Sequence[Step]
    lives: Sequence[Life]
    notes: Sequence[str]
    exact: bool

    @property
    def trajectory(self) -> Trajectory:
        return self.played.trajectory

    @property
    def budget(self) -> int | None:
        """T_max in tokens; None where it is not known."""
        return _budget(self.trajectory)

    @property
    def calls(self) -> list[ToolEvent]:
        return [e for e in self.trajectory.events if isinstance(e, ToolEvent)]


def view(played: Played) -> View:
    """The view of a trajectory."""
    trajectory = played.trajectory
    messages: dict[int, list[Message]] = {}
    for entry, message in zip(trajectory.transcript, _messages(trajectory), strict=True):
        messages.setdefault(entry.stage, []).append(message)
    edits = [e for e in trajectory.events if isinstance(e, ToolEvent) and e.effect == "reduced"]
    return View(
        played=played,
        outcome=_outcome(trajectory),
        answer=(trajectory.outcome.answer or "") if trajectory.outcome else "",
        j=_j(played),
        stages=dict(sorted(messages.items())),
        steps=_steps(played),
        lives=lives(trajectory),
        notes=[note for event in trajectory.events if (note := _note(event))],
        exact=trajectory.left is not None or not edits,
    )


def _messages(trajectory: Trajectory) -> list[Message]:
    transcript = trajectory.transcript
    left = trajectory.left or [None] * len(transcript)
    resets = _resets(trajectory)
    events = _by_entry(trajectory)
    found = []
    for place, (entry, gone) in enumerate(zip(transcript, left, strict=True)):
        sampled = entry.role in _SAMPLED
        editor = None if gone is None else _editor(trajectory.events, gone)
        found.append(
            Message(
                role=entry.role,
                title=_TITLES.get(entry.role, entry.role.replace("_", " ")),
                step=entry.step,
                since=entry.step + sampled,
                until=resets.get(entry.stage) if gone is None else gone,
                editor=editor,
                parts=_parts(entry),
                events=events.get(place, ()),
            )
        )
    return found


def _by_entry(trajectory: Trajectory) -> dict[int, list[Event]]:
    """Events by the place of the response that they come of, or of the message they came with."""
    responses: dict[int, int] = {}
    messages: dict[int, list[int]] = {}
    for place, entry in enumerate(trajectory.transcript):
        if entry.role == "act":
            responses[entry.step] = place
        elif entry.role not in _SAMPLED:
            messages.setdefault(entry.step, []).append(place)
    found: dict[int, list[Event]] = {}
    for event in trajectory.events:
        place = None
        if isinstance(event, ToolEvent | FormatEvent):
            place = responses.get(event.step)
        elif isinstance(event, RetrievalEvent) and event.retrieved:
            near = messages.get(event.step, [])
            texts = [trajectory.transcript[each].text for each in near]
            with_it = [p for p, t in zip(near, texts, strict=True) if t.startswith(event.query)]
            place = next(iter(with_it or near[-1:]), None)
        if place is not None:
            found.setdefault(place, []).append(event)
    return found


def _resets(trajectory: Trajectory) -> dict[int, int]:
    """The first step that does not see the messages of a stage: Stage 2 begins with a reset, and
    Stage 3 where it is the first one behind Stage 1."""
    later = [entry.step for entry in trajectory.transcript if entry.stage > 1]
    return {1: min(later)} if later else {}


def _editor(events: Sequence[Event], until: int) -> str:
    """The tool whose call was the last to make the context smaller before the step `until`."""
    names = [
        event.name
        for event in events
        if isinstance(event, ToolEvent) and event.ok and event.step < until
        and (event.effect == "reduced" or event.removed)
    ]  # fmt: skip
    return names[-1] if names else "an edit"


def _parts(entry: TranscriptEntry) -> list[Part]:
    if entry.role != "act":
        return [Part("text", entry.text)]
    parts, end = [], 0
    for found in _PARTS.finditer(entry.text):
        parts += [Part("text", entry.text[end : found.start()]), Part(found[1], found[2])]
        end = found.end()
    parts.append(Part("text", entry.text[end:]))
    return [part for part in parts if part.text.strip()] or [Part("text", entry.text)]


def _steps(played: Played) -> list[Step]:
    trajectory = played.trajectory
    budget = _budget(trajectory)
    sampled = {e.step: e for e in trajectory.transcript if e.role in _SAMPLED}
    calls: dict[int, list[tuple[str, bool]]] = {}
    for event in trajectory.events:
        if isinstance(event, ToolEvent):
            calls.setdefault(event.step, []).append((event.name, event.ok))
    advantages = played.advantages or []
    return [
        Step(
            number=number,
            stage=sampled[number].stage if number in sampled else 0,
            tokens=tokens,
            share=tokens / budget if budget else None,
            advantage=advantages[number] if number < len(advantages) else None,
            calls=calls.get(number, []),
            summary=number in sampled and sampled[number].role == "summary",
        )
        for number, tokens in enumerate(trajectory.prompt_tokens)
    ]


def _budget(trajectory: Trajectory) -> int | None:
    if trajectory.max_context_tokens is not None or trajectory.outcome is None:
        return trajectory.max_context_tokens
    return trajectory.outcome.max_context_tokens  # of a record of an earlier version


def _j(played: Played) -> float | None:
    outcome = played.trajectory.outcome
    if outcome is not None and outcome.score is not None:
        return outcome.score
    if played.reward is None or "task" not in played.reward:
        return None
    return max(0.0, played.reward["task"])


def _outcome(trajectory: Trajectory) -> str:
    if trajectory.fault is not None:
        return "failed"
    outcome = trajectory.outcome
    if any(isinstance(event, OverflowEvent) for event in trajectory.events):
        return "context overflowed"
    if outcome is None:
        limited = any(isinstance(event, RoundLimitEvent) for event in trajectory.events)
        return "rounds used up" if limited else "no answer"
    if outcome.score is None:
        return "answered"
    return "goal reached" if outcome.score else "goal not reached"


def _note(event: Event) -> str | None:
    match event:
        case OverflowEvent():
            return f"Step {event.step}: the context overflowed, at {event.context_tokens} tokens."
        case RoundLimitEvent():
            return f"Step {event.step}: all {event.rounds} rounds were used without an end."
        case DroppedMessagesEvent():
            return f"Stage 1 left out the last {event.dropped} messages of the task."
        case OutcomeEvent(score=float()):
            progress = "" if event.progress is None else f"progress {event.progress:.2f}, "
            return f"The environment ended: {progress}{event.actions} actions."
    return None


def arguments(call: ToolEvent) -> str:
    """The arguments of a call as one line of JSON."""
    return json.dumps(dict(call.arguments), ensure_ascii=False, default=str)


def row(number: int, shown: View) -> dict[str, Any]:
    """What the table knows of a trajectory, by name; long texts are cut."""
    played, trajectory = shown.played, shown.trajectory
    shares = [step.share for step in shown.steps if step.share is not None]
    shares += trajectory.context_shares[len(shares) :]  # that of an overflow
    reward = played.reward or {}
    advantages = played.advantages
    tally: dict[tuple[str, int], list[int]] = {}
    for call in shown.calls:
        counts = tally.setdefault((call.name[:60], call.stage), [0, 0])
        counts[0 if call.ok else 1] += 1
    return {
        "id": number,
        "source": played.source,
        "record": played.record,
        "task": trajectory.task.task_id,
        "group": played.group,
        "question": _short(_question(trajectory)),
        "answer": _short(shown.answer),
        "outcome": shown.outcome,
        "j": _rounded(shown.j),
        "reward": _rounded(reward.get("total")),
        "advantage": _rounded(sum(advantages) / len(advantages) if advantages else None),
        "steps": trajectory.num_steps,
        "calls": len(shown.calls),
        "failed": sum(not call.ok for call in shown.calls),
        "errors": sum(isinstance(event, FormatEvent) for event in trajectory.events),
        "fullest": _rounded(max(shares, default=None)),
        "memories": len(trajectory.memory),
        "tally": [[name, stage, *counts] for (name, stage), counts in tally.items()],
    }


def _question(trajectory: Trajectory) -> str:
    asked = next((e.text for e in trajectory.transcript if e.role == "query"), "")
    return trajectory.task.query or asked or trajectory.task.task_id


def _short(text: str, length: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
