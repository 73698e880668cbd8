"""Episodes with their rewards, as Markdown for people to read."""

from collections.abc import Sequence

from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.trajectory import Trajectory


def render_trajectories(
    played: Sequence[tuple[Trajectory, Reward]], remarks: Sequence[str] | None = None
) -> str:
    """Markdown in which a person can read what happened in some episodes.

    Args:
      played: what to show.
      remarks: a sentence on each, behind its reward.
    """
    told = [""] * len(played) if remarks is None else remarks
    return "\n".join(
        line
        for pair, remark in zip(played, told, strict=True)
        for line in _trajectory_lines(*pair, remark)
    )


def _trajectory_lines(trajectory: Trajectory, reward: Reward, remark: str) -> list[str]:
    task = trajectory.task
    parts = ", ".join(f"{k} {v:.2f}" for k, v in reward.values.items())
    outcome = trajectory.outcome
    if task.is_question:
        told = f"expected answer **{task.answer}**"
    elif outcome is None:
        told = "ended before its environment"
    else:
        reached = "reached" if outcome.score else "not reached"
        told = f"goal {reached}, progress {outcome.progress:.2f} in {outcome.actions} actions"
    lines = [
        f"### {task.query or task.task_id}", "",
        f"Task `{task.task_id}`, {told}. Reward: {parts}. {remark}".rstrip(), "",
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
