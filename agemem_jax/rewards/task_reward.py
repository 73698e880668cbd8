"""R_task: was the goal reached (paper section 3.5, appendix A.2)."""

import dataclasses
from typing import Literal

from agemem_jax.protocol.events import OutcomeEvent
from agemem_jax.rewards.judges import AnswerItem, Judge, Questions
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class TaskReward:
    """The judge's score of an answer, or what was reached in an environment, in [0, 1].

    Attributes:
      no_answer: where there is neither, since no answer was given or Stage 3 not reached.
      environment: "progress" counts the part of an environment's goal that was reached,
        "success" nothing but the whole.
    """

    no_answer: float = -1.0
    environment: Literal["progress", "success"] = "progress"

    def questions(self, trajectory: Trajectory) -> Questions:
        item = answer_item(trajectory)
        return Questions() if item is None else Questions(answers=(item,))

    def __call__(self, trajectory: Trajectory, judge: Judge) -> float:
        outcome, item = trajectory.outcome, answer_item(trajectory)
        if item is not None:
            return judge.score_answers([item])[0]
        if outcome is None:
            return self.no_answer
        return self._reached(outcome)

    def _reached(self, outcome: OutcomeEvent) -> float:
        return outcome.score if self.environment == "success" else outcome.progress


def answer_item(trajectory: Trajectory) -> AnswerItem | None:
    """What a judge is asked; None when there is no answer to a question."""
    outcome, task = trajectory.outcome, trajectory.task
    if outcome is None or outcome.answer is None:
        return None
    return AnswerItem(task.query, task.answer, outcome.answer)
