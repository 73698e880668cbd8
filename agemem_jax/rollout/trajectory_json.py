"""Trajectories as lines of JSON: what was said and what happened, not what is trained on."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any

from agemem_jax.protocol import events
from agemem_jax.protocol.events import RetrievedEntry
from agemem_jax.rollout.trajectory import Cost, Trajectory, TranscriptEntry
from agemem_jax.tasks.task import EnvironmentGoal, Question, Task

_EVENTS = {kind.__name__: kind for kind in typing.get_args(events.Event)}


def to_line(index: int, trajectory: Trajectory) -> str:
    """One line without its newline.

    Args:
      index: the place of the task among those that are played.
      trajectory: of the episode.
    """
    return json.dumps(
        {
            "index": index,
            "task": trajectory.task.task_id,
            "about": _about(trajectory.task),
            "fault": trajectory.fault,
            "tools": trajectory.tools,
            "prompt_tokens": trajectory.prompt_tokens,
            "max_context_tokens": trajectory.max_context_tokens,
            "cost": trajectory.cost and dataclasses.asdict(trajectory.cost),
            "left": trajectory.left,
            "memory": trajectory.memory,
            "events": [{"event": type(e).__name__, **dataclasses.asdict(e)} for e in
                       trajectory.events],
            "transcript": [dataclasses.asdict(entry) for entry in trajectory.transcript],
        },
        ensure_ascii=False,
    )  # fmt: skip


def from_line(line: str, tasks: Mapping[int, Task]) -> tuple[int, Trajectory]:
    """The inverse of `to_line`; the trajectory has no segments.

    Args:
      line: the text.
      tasks: by their place.

    Raises:
      ValueError, KeyError, TypeError: it is no such line, or one of another task.
    """
    values = json.loads(line)
    index = values["index"]
    task = tasks[index]
    if task.task_id != values["task"]:
        raise ValueError(f"Episode {index} is of task {values['task']}, not {task.task_id}.")
    return index, _trajectory(values, task)


def read_alone(values: Mapping[str, Any]) -> Trajectory:
    """A trajectory whose task is not at hand: with as much of it as the line says.

    Args:
      values: of the line, read as JSON.

    Of earlier versions that is the id alone. A goal that is no question has its instruction.

    Raises:
      ValueError, KeyError, TypeError: they are of no such line.
    """
    about = dict(values.get("about", {}))  # absent in earlier versions
    query, answer = about.pop("query", ""), about.pop("answer", "")
    goal = EnvironmentGoal("", instruction=query) if answer is None else Question(query, answer)
    facts = {name: tuple(about.pop(name, ())) for name in _FACTS}
    return _trajectory(values, Task(values["task"], goal, **facts, **about))


_FACTS = ("supporting_facts", "stale_facts")


def _about(task: Task) -> dict[str, Any]:
    """What a reader of the line needs to know of the task."""
    return {
        "query": task.query,
        "answer": task.answer if task.is_question else None,
        **{name: list(getattr(task, name)) for name in _FACTS},
        "category": task.category,
        "data_set": task.data_set,
    }


def _trajectory(values: Mapping[str, Any], task: Task) -> Trajectory:
    return Trajectory(
        task=task,
        segments=[],
        events=[_event(each) for each in values["events"]],
        transcript=[TranscriptEntry(**entry) for entry in values["transcript"]],
        prompt_tokens=values["prompt_tokens"],
        memory=values["memory"],
        tools=tuple(values["tools"]),
        max_context_tokens=values.get("max_context_tokens"),  # absent in earlier versions
        left=values.get("left"),  # likewise
        fault=values["fault"],
        cost=Cost(**values["cost"]) if values.get("cost") else None,
    )


def _event(values: dict[str, Any]) -> events.Event:
    fields = {name: value for name, value in values.items() if name != "event"}
    if "retrieved" in fields:
        fields["retrieved"] = tuple(RetrievedEntry(**entry) for entry in fields["retrieved"])
    if "removed" in fields:
        fields["removed"] = tuple(fields["removed"])
    return _EVENTS[values["event"]](**fields)
