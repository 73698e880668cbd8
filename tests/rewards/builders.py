"""Short ways to write tasks, events and trajectories in tests."""

import dataclasses

from agemem_jax.protocol.events import (
    AnswerEvent,
    Event,
    OutcomeEvent,
    RetrievalEvent,
    RetrievedEntry,
    ToolEvent,
)
from agemem_jax.rewards.registry import RewardConfig
from agemem_jax.rollout.tools.registry import TOOL_NAMES
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Question, Task

WORKS, BASED = "Tovelin works at Pelmor.", "Pelmor is based in Velton."
STALE = "Tovelin works at Dravix."
NOISE = "The weather is nice today."
TASK = Task(
    task_id="t",
    goal=Question("In which city is the employer of Tovelin based?", "Velton"),
    supporting_facts=(WORKS, BASED),
    stale_facts=(STALE,),
)


EFFECTS = {
    "Add_memory": "added", "Update_memory": "updated", "Delete_memory": "deleted",
    "Retrieve_memory": "retrieved", "Summary_context": "reduced", "Filter_context": "reduced",
}  # fmt: skip


def tool(name: str, stage: int = 1, ok: bool = True, changed: bool = True, **fields) -> ToolEvent:
    """A call; one that is `ok` had its tool's effect, unless it changed nothing."""
    had_effect = ok and (changed or name in ("Add_memory", "Retrieve_memory"))
    effect = EFFECTS.get(name) if had_effect else None
    return ToolEvent(stage=stage, step=0, name=name, arguments={}, ok=ok, effect=effect, **fields)


def add(memory_id: str, content: str, **fields) -> ToolEvent:
    return tool("Add_memory", memory_id=memory_id, content=content, **fields)


def retrieve(*contents: str, stage: int = 3, **fields) -> ToolEvent:
    entries = entries_of(contents)
    return tool("Retrieve_memory", stage=stage, changed=False, retrieved=entries, **fields)


def shown(*contents: str, stage: int = 3) -> RetrievalEvent:
    """What the episode retrieved unasked."""
    return RetrievalEvent(stage, 0, "a message", entries_of(contents))


def entries_of(contents) -> tuple[RetrievedEntry, ...]:
    return tuple(RetrievedEntry(f"mem_{text}", text, 0.5) for text in contents)


def answer(
    text: str = "Velton", tokens: int = 100, context: str = "", stage: int = 3, budget: int = 8192
) -> Event:
    """An answer; that of Stage 3 is the outcome."""
    if stage < 3:
        return AnswerEvent(stage, 0, text)
    return OutcomeEvent(
        stage, 0, context_tokens=tokens, context_text=context, max_context_tokens=budget,
        answer=text,
    )  # fmt: skip


def acted(progress: float, won: bool = False, tokens: int = 100, **fields) -> OutcomeEvent:
    """The outcome of an environment."""
    return OutcomeEvent(
        3, 0, context_tokens=tokens, context_text="", max_context_tokens=8192,
        score=float(won), progress=progress, **fields,
    )  # fmt: skip


def reward_config(**changes) -> RewardConfig:
    """The default with other weights, `task=0.5`, or options, `penalty__round_limit=-2.0`."""
    components = RewardConfig().components
    for name, value in changes.items():
        component, _, option = name.partition("__")
        old = components[component]
        new = {"options": {**old.options, option: value}} if option else {"weight": value}
        components = {**components, component: dataclasses.replace(old, **new)}
    return RewardConfig(components)


def trajectory(*events: Event, task: Task = TASK) -> Trajectory:
    return Trajectory(
        task=task, segments=[], events=list(events), transcript=[], prompt_tokens=[], memory={},
        tools=TOOL_NAMES,
    )  # fmt: skip
