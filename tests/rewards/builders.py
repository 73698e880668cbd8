"""Short ways to write tasks, events and trajectories in tests."""

from agemem_jax.protocol.events import (
    AnswerEvent,
    Event,
    RetrievalEvent,
    RetrievedEntry,
    ToolEvent,
)
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


def tool(name: str, stage: int = 1, ok: bool = True, changed: bool = True, **fields) -> ToolEvent:
    return ToolEvent(stage=stage, step=0, name=name, arguments={}, ok=ok, changed=changed, **fields)


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


def answer(text: str = "Velton", tokens: int = 100, context: str = "", stage: int = 3):
    return AnswerEvent(stage, 0, text, context_tokens=tokens, context_text=context)


def trajectory(*events: Event, task: Task = TASK) -> Trajectory:
    return Trajectory(
        task=task, segments=[], events=list(events), transcript=[], prompt_tokens=[], memory={}
    )
