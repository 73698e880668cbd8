"""R_task: was the question answered (paper section 3.5, appendix A.2)."""

from agemem_jax.rewards.judges import AnswerItem
from agemem_jax.rollout.trajectory import Trajectory


def answer_item(trajectory: Trajectory) -> AnswerItem | None:
    """What a judge is asked; None when there is no Stage 3 answer."""
    if trajectory.answer is None:
        return None
    task = trajectory.task
    return AnswerItem(task.query, task.answer, trajectory.answer.answer)


def task_reward(score: float | None, no_answer: float = -1.0) -> float:
    """The judge's score in [0, 1]; `no_answer` where nothing was answered (score None)."""
    return no_answer if score is None else score
