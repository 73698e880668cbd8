"""What is measured of one episode, in one way for training and evaluation."""

from collections.abc import Mapping

from agemem_jax.protocol.events import FormatEvent, ToolEvent
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


def of_reward(reward: Reward) -> dict[str, float | None]:
    """`reward`, and every component and part of it as `reward_NAME`; None: not at stake."""
    named: Mapping[str, float | None] = {**reward.components, **reward.parts}
    return {"reward": reward.total, **{f"reward_{name}": value for name, value in named.items()}}


def of_play(trajectory: Trajectory) -> dict[str, float | None]:
    """How the episode went; None where there is no such value.

    Returns:
      `answered`, `steps`, `dropped_messages`; `format_errors`, responses that could not be read;
      `prompt_tokens`, mean over the prompts, None where the first one was too long;
      `context_share`, `context_share_max`, mean and largest prompt over T_max, above 1 where the
      context overflowed, None without prompts;
      `idle_edits`, the share of the calls of context tools that did their work and left the
      context no shorter than it was, None without such calls.
    """
    shares, edits = trajectory.context_shares, _edits(trajectory)
    return {
        "answered": float(trajectory.outcome is not None),
        "steps": trajectory.num_steps,
        "prompt_tokens": trajectory.mean_prompt_tokens,
        "context_share": sum(shares) / len(shares) if shares else None,
        "context_share_max": max(shares, default=None),
        "idle_edits": sum(edits) / len(edits) if edits else None,
        "format_errors": sum(isinstance(e, FormatEvent) for e in trajectory.events),
        "dropped_messages": trajectory.dropped_messages,
    }


def _edits(trajectory: Trajectory) -> list[bool]:
    """Of each call that edits the context, and did not fail: whether it was idle.

    A user's own tool counts where it had the effect; one of the paper's without it was idle.
    """
    return [
        event.tokens_after >= event.tokens_before
        for event in trajectory.events
        if isinstance(event, ToolEvent)
        and event.ok
        and (event.effect == "reduced" or event.name in _CONTEXT_TOOLS)
    ]


_CONTEXT_TOOLS = ("Summary_context", "Filter_context")
