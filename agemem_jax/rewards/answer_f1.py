"""F1 of an answer as its data set counts it, beside whatever a judge says.

A way to count is a function of (answer, expected answer, category) in [0, 1]; a question names
its own (`Question.f1`).
"""

from collections.abc import Sequence

from agemem_jax.plugins.registry import Registry
from agemem_jax.rewards import text_matching
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task

ANSWER_F1 = Registry(
    "F1 of answers",
    {
        "hotpotqa": "agemem_jax.rewards.answer_f1:hotpotqa",
        "locomo": "agemem_jax.rewards.locomo_f1:score",
    },
)


def hotpotqa(answer: str, expected: str, category: str) -> float:
    """Token F1 by HotpotQA's official normalisation, whatever the category."""
    del category
    return text_matching.answer_f1(answer, expected)


def of_trajectory(trajectory: Trajectory) -> float | None:
    """The F1 of the answer, 0 without one; None where the goal is no question."""
    task, outcome = trajectory.task, trajectory.outcome
    if not task.is_question:
        return None
    if outcome is None:
        return 0.0
    return ANSWER_F1.find(task.goal.f1)(outcome.answer, task.answer, task.category)


def check(tasks: Sequence[Task]) -> None:
    """Whether the answers to these can be counted, before hours are spent on them.

    Raises:
      ImportError: a package is missing.
      ValueError: a way to count is not known.
    """
    for name, category in dict.fromkeys((t.goal.f1, t.category) for t in tasks if t.is_question):
        ANSWER_F1.find(name)("nothing", "something", category)
