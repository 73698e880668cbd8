"""What people look at: the table of an evaluation, the learning curve, trajectories."""

import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich import table as rich_table

from agemem_jax.evaluation.metrics import Measures
from agemem_jax.evaluation.records import Record
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.trajectory import Trajectory


def render_tables(results: Mapping[str, Measures], title: str) -> list[rich_table.Table]:
    """Scores, and what they cost; one row per method, at most 80 columns wide.

    J, MQ and R_memory are in percent with 95 % intervals; calls of tools are means per
    task.
    """
    scores = _table(title, ("tasks", "J", "MQ", "R_memory"))
    tools = sorted({tool for measures in results.values() for tool in measures.tc})
    costs = _table("tokens (TN) and tool calls (TC) per task",
                   ("reward", "TN", "TC", *(tool.split("_")[0] for tool in tools)))  # fmt: skip
    for name, m in results.items():
        scores.add_row(name, str(m.tasks), m.j.percent(), m.mq.percent(), m.r_memory.percent())
        costs.add_row(
            name, f"{m.reward.mean:.3f}", f"{m.tn.mean:.0f}", f"{sum(m.tc.values()):.2f}",
            *(f"{m.tc.get(tool, 0.0):.2f}" for tool in tools),
        )  # fmt: skip
    failed = ", ".join(f"{m.failed} of {name}" for name, m in results.items() if m.failed)
    if failed:
        scores.caption = f"Episodes that failed and are left out: {failed}."
    return [scores, costs]


def _table(title: str, columns: Sequence[str]) -> rich_table.Table:
    table = rich_table.Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("method", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def write_results(workdir: str | os.PathLike, records: Sequence[Record]) -> None:
    """`evaluation.json` and `evaluation.csv`, a row per record, and `trajectories.md`."""
    folder = pathlib.Path(workdir)
    rows = [
        {
            "method": record.method,
            "title": record.title,
            "settings": dict(record.settings),
            **dataclasses.asdict(record.measures),
        }
        for record in records
    ]
    (folder / "evaluation.json").write_text(json.dumps({"results": rows}, indent=2) + "\n")
    flat = [_flatten(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    with (folder / "evaluation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(flat)
    lines = ["# Trajectories", ""]
    for record in records:
        lines += [f"## {record.title}, {_told(record.settings)}", "", record.trajectories]
    (folder / "trajectories.md").write_text("\n".join(lines))


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in _flatten(settings).items())


def _flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def render_trajectories(played: Sequence[tuple[Trajectory, Reward]]) -> str:
    """Markdown in which a person can read what happened in some episodes."""
    return "\n".join(line for pair in played for line in _trajectory_lines(*pair))


def _trajectory_lines(trajectory: Trajectory, reward: Reward) -> list[str]:
    task = trajectory.task
    parts = ", ".join(f"{k} {v:.2f}" for k, v in dataclasses.asdict(reward).items())
    lines = [
        f"### {task.query}", "",
        f"Task `{task.task_id}`, expected answer **{task.answer}**. Reward: {parts}.", "",
    ]  # fmt: skip
    stage = None
    for entry in trajectory.transcript:
        if entry.stage != stage:
            stage = entry.stage
            lines += [f"#### Stage {stage}", ""]
        body = "\n".join(f"> {line}" for line in entry.text.splitlines() or [""])
        lines += [f"**{entry.role}** (step {entry.step})", "", body, ""]
    lines += ["Memory at the end:", ""]
    lines += [f"- `{key}`: {text}" for key, text in trajectory.memory.items()] or ["- empty"]
    return [*lines, ""]


def write_learning_curve(path: str | os.PathLike, metrics: Sequence[Mapping[str, Any]]) -> None:
    """A picture of reward, task score and R_memory over the GRPO iterations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [line for line in metrics if "reward" in line]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label in (
        ("reward", "total reward"),
        ("reward_task", "R_task"),
        ("reward_memory", "R_memory"),
        ("reward_context", "R_context"),
    ):
        axes.plot([r["step"] for r in rows], [r[name] for r in rows], label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("mean over the batch")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
