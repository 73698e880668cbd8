"""What is measured of one episode, in one way for training and evaluation."""

from collections.abc import Mapping

from agemem_jax.protocol.events import FormatEvent
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.trajectory import Trajectory


def of_goal(trajectory: Trajectory, reward: Reward) -> dict[str, float]:
    """Whether the goal was reached, by what can be said of its kind.

    Returns:
      `success`: 1 where an environment's goal was reached, or an answer got R_task's full score.
      Of an environment, too: `progress`, the part of the goal that was reached, in [0, 1];
      `grounding`, the share of the actions that could be done; `actions`, their number. All 0
      where the episode ended before it.
    """
    task = reward.components.get("task", 0.0)
    if trajectory.task.is_question:
        return {"success": float(task >= 1.0)}
    outcome = trajectory.outcome
    if outcome is None:
        return dict.fromkeys(("success", "progress", "grounding", "actions"), 0.0)
    return {
        "success": outcome.score,
        "progress": outcome.progress,
        "grounding": outcome.valid_actions / max(1, outcome.actions),
        "actions": float(outcome.actions),
    }


def of_reward(reward: Reward) -> dict[str, float]:
    """`reward`, and every component and part of it as `reward_NAME`."""
    named: Mapping[str, float] = {**reward.components, **reward.parts}
    return {"reward": reward.total, **{f"reward_{name}": value for name, value in named.items()}}


def of_play(trajectory: Trajectory) -> dict[str, float | None]:
    """How the episode went; `prompt_tokens` is None where the first prompt was too long."""
    return {
        "answered": float(trajectory.outcome is not None),
        "steps": trajectory.num_steps,
        "prompt_tokens": trajectory.mean_prompt_tokens,
        "format_errors": sum(isinstance(e, FormatEvent) for e in trajectory.events),
        "dropped_messages": trajectory.dropped_messages,
    }
