"""Trajectories and work directories with everything that a report shows."""

import dataclasses
import json
import pathlib

from agemem_jax.evaluation.metrics import measure
from agemem_jax.evaluation.records import Record, Records
from agemem_jax.protocol.events import OutcomeEvent, RetrievalEvent, RetrievedEntry, ToolEvent
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout import trajectory_json
from agemem_jax.rollout.tools.registry import TOOL_NAMES
from agemem_jax.rollout.trajectory import Trajectory, TranscriptEntry
from agemem_jax.tasks.task import Question, Task

EVIL = "<script>window.broken = true</script><img src=x onerror='window.broken = true'>"
TASK = Task(
    task_id="t-0",
    goal=Question("Where does Ana live?", "Oslo"),
    supporting_facts=("Ana lives in Oslo.",),
    stale_facts=("Ana lives in Paris.",),
)


def call(step: int, stage: int, name: str, **fields) -> ToolEvent:
    fields = {"arguments": {}, "ok": True, **fields}
    return ToolEvent(stage=stage, step=step, name=name, **fields)


def played(number: int = 0, evil: str = "", long: int = 1) -> Trajectory:
    """An episode of three stages: stores, is shown, updates, filters, retrieves, answers.

    Args:
      number: of the task; in odd ones a call fails and the answer is wrong.
      evil: stands in every text that a policy or a task may write.
      long: how many distractors there are.
    """
    entry = RetrievedEntry("mem_1", f"Ana lives in Paris.{evil}", 0.75)
    now = RetrievedEntry("mem_1", f"Ana lives in Oslo.{evil}", 0.875)
    entries = [
        (1, 0, "task_message", f"Ana lives in Paris.{evil}"),
        (1, 0, "act", f"<think>New.{evil}</think><tool_call>[{evil}]</tool_call>"),
        (1, 1, "task_message", f"Ana moved to Oslo, number {number}.{evil}"),
        (1, 1, "act", f"<think>Changed.</think><tool_call>[]</tool_call>{evil}"),
    ]
    left: list[int | None] = [None] * 4
    for place in range(long):
        text = f"Bo lives in Bergen, at number {place}.{evil} " + "It rains there. " * (place % 9)
        entries += [
            (2, 2 + place, "distractor", text),
            (2, 2 + place, "act", "<answer>Ok</answer>"),
        ]
        left += [None, None]
    step = 2 + long
    left[4] = step
    entries += [
        (3, step, "query", f"Question: {TASK.query}{evil}"),
        (3, step, "act", "<tool_call>[]</tool_call>"),
        (3, step + 1, "tool_result", f"mem_1: Ana lives in Oslo.{evil}"),
        (3, step + 1, "act", f"<answer>{'Rome' if number % 2 else 'Oslo'}{evil}</answer>"),
    ]
    left += [None] * 4
    happened = [
        call(0, 1, "Add_memory", effect="added", memory_id="mem_1", content=entry.content,
             arguments={"content": entry.content}),
        RetrievalEvent(1, 1, entries[2][3], (entry,)),
        call(1, 1, "Update_memory", effect="updated", memory_id="mem_1", content=now.content,
             previous=entry.content),
        call(step - 1, 2, "Filter_context", effect="reduced", removed=(entries[4][3],),
             tokens_before=400, tokens_after=300, arguments={"criteria": f"Bo{evil}"}),
        call(step, 3, "Retrieve_memory", effect="retrieved", retrieved=(now,)),
    ]  # fmt: skip
    if number % 2:
        happened.append(call(step, 3, f"No_tool{evil}", ok=False, error=f"Unknown.{evil}"))
    answer = f"{'Rome' if number % 2 else 'Oslo'}{evil}"
    happened.append(OutcomeEvent(3, step + 1, 350, "", 1000, answer=answer))
    task = dataclasses.replace(
        TASK, task_id=f"t-{number}", category=evil,
        goal=Question(f"{TASK.query}{evil}", f"Oslo{evil}"),
    )  # fmt: skip
    return Trajectory(
        task=task, segments=[], events=happened,
        transcript=[TranscriptEntry(*each) for each in entries],
        prompt_tokens=[200 + 40 * place for place in range(step + 2)],
        memory={"mem_1": now.content}, tools=TOOL_NAMES, max_context_tokens=1000, left=left,
    )  # fmt: skip


def reward(trajectory: Trajectory) -> Reward:
    right = float(trajectory.outcome.answer.startswith("Oslo"))
    return Reward(right + 0.1, {"task": right, "memory": 0.2}, {"storage": 0.5})


def evaluate(workdir: pathlib.Path, trajectories, method: str = "agemem", **settings) -> str:
    """Stores trajectories as an evaluation does; the name of the record."""
    records = Records(workdir)
    settings = {"tasks": {"name": "multihop", "split": "test"}, "judge": "offline", **settings}
    episodes = records.episodes(method, settings)
    for index, each in enumerate(trajectories):
        episodes.add(index, each)
    intact = [each for each in trajectories if each.fault is None]
    rewards = [reward(each) for each in intact]
    measures = measure(intact, rewards, [1.0] * len(intact), samples=20)
    tasks = [{"task_id": t.task.task_id, **r.values} for t, r in zip(intact, rewards, strict=True)]
    records.write(Record(method, method.capitalize(), settings, measures, tasks))
    stored = (workdir / "evaluation").glob(f"{method}-*.json")
    return max(stored, key=lambda path: path.stat().st_mtime_ns).stem


def sample(workdir: pathlib.Path, step: int, trajectories, advantages) -> None:
    """Stores trajectories as training does, as one group."""
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)
    lines = []
    for index, (each, advantage) in enumerate(zip(trajectories, advantages, strict=True)):
        line = json.loads(trajectory_json.to_line(index, each))
        line |= {"reward": reward(each).values, "advantage": advantage, "group": 0}
        lines.append(json.dumps(line) + "\n")
    (folder / f"{step}.jsonl").write_text("".join(lines))


def train(workdir: pathlib.Path, steps: int = 5) -> None:
    """Writes the metrics and the configuration of a run."""
    lines = [
        {
            "step": step, "phase": "joint", "reward": 0.1 * step, "reward_task": 0.05 * step,
            "reward_storage": 0.5, "tc/Add_memory": 1.0, "loss": 1.0 / step, "success": 0.1,
        }
        for step in range(1, steps + 1)
    ]  # fmt: skip
    evaluated = {"step": 3, "eval/success": 0.5, "eval/success_low": 0.4, "eval/success_high": 0.6}
    written = "".join(json.dumps(line) + "\n" for line in [*lines, evaluated])
    (workdir / "metrics.jsonl").write_text(written)
    config = {"seed": 0, "backbone": "tiny", "tasks": {"source": "multihop"},
              "rewards": {"components": {"task": {}, "memory": {}}}}  # fmt: skip
    (workdir / "config.json").write_text(json.dumps(config))
