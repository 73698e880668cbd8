"""What a judge is worth: its scores by every prompt, and how often it takes wrong answers.

A lenient prompt passes up to 63 % of wrong answers in LoCoMo, so no J stands alone: beside it is
the share of answers that are wrong for sure and that the same judge accepts by the same prompt.
"""

import collections
import hashlib
from collections.abc import Sequence

from agemem_jax.rewards import answer_f1, text_matching
from agemem_jax.rewards.judges import AnswerItem, Judge
from agemem_jax.rewards.task_reward import answer_item
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task

ACCEPTED = 0.5  # from which score on a judge counts as having accepted an answer


def judged_rows(
    trajectories: Sequence[Trajectory], judge: Judge, most_wrong: int
) -> list[dict[str, float | None]]:
    """What is known of the answer of each trajectory, in order; nothing of environments.

    Returns:
      `em`, 1 where the answer is the expected one by HotpotQA's normalisation;
      `j_PROMPT`, the judge's score by each of its prompts, where there are several; no answer is 0;
      `accepts_wrong_PROMPT`, 1 where it accepts the expected answer of another task
      (`shuffled_answers`) in place of this task's; None where that was not asked.

    Args:
      trajectories: to measure.
      judge: that is asked.
      most_wrong: wrong answers that it is asked about at most, by each prompt.
    """
    rows: list[dict[str, float | None]] = [{} for _ in trajectories]
    asked = [index for index, each in enumerate(trajectories) if each.task.is_question]
    if not asked:
        return rows
    for index in asked:
        rows[index]["em"] = _exact(trajectories[index])
    wrong = wrong_items([trajectories[index].task for index in asked], most_wrong)
    items = [answer_item(trajectories[index]) for index in asked]
    scorers = judge.answer_scorers()
    for name, score in scorers.items():
        if len(scorers) > 1:
            scores = iter(score([item for item in items if item is not None]))
            for index, item in zip(asked, items, strict=True):
                rows[index][f"j_{name}"] = 0.0 if item is None else next(scores)
        scores = iter(score([item for item in wrong if item is not None]))
        for index, item in zip(asked, wrong, strict=True):
            accepted = None if item is None else float(next(scores) >= ACCEPTED)
            rows[index][f"accepts_wrong_{name}"] = accepted
    return rows


def wrong_items(tasks: Sequence[Task], most: int) -> list[AnswerItem | None]:
    """Each task's question with the expected answer of another task; None beyond `most`."""
    answers = shuffled_answers(tasks)
    known = [index for index, answer in enumerate(answers) if answer is not None]
    places = range(most if known else 0)
    spread = {known[place * len(known) // most] for place in places}
    chosen = set(known) if len(known) <= most else spread
    return [
        AnswerItem(task.query, task.answer, answer) if index in chosen else None
        for index, (task, answer) in enumerate(zip(tasks, answers, strict=True))
    ]


def shuffled_answers(tasks: Sequence[Task]) -> list[str | None]:
    """For each task the expected answer of another one, which is wrong for it.

    Answers change places among the tasks of one category, which makes them plausible: a year
    stands for a year. No task gets its own answer, nor one that is the same by HotpotQA's
    normalisation or counts as right (F1 of 1) as its data set counts. It is the same for the same
    tasks, whatever their order. Where more than half of a category have one answer, some have no
    partner there; they get the first wrong answer of any task, or None where all answers are alike.
    """
    order = sorted(range(len(tasks)), key=lambda index: (_hash(tasks[index].task_id), index))
    found: list[str | None] = [None] * len(tasks)
    groups: dict[str, list[int]] = {}
    for index in order:
        groups.setdefault(tasks[index].category, []).append(index)
    for group in groups.values():
        for index, other in zip(group, _rotated([_normal(tasks[i]) for i in group]), strict=True):
            found[index] = tasks[group[other]].answer
    for place, index in enumerate(order):
        task = tasks[index]
        if not _is_wrong(task, found[index]):
            others = (tasks[other].answer for other in order[place:] + order[:place])
            found[index] = next((other for other in others if _is_wrong(task, other)), None)
    return found


def _rotated(answers: Sequence[str]) -> list[int]:
    """A permutation under which the fewest answers meet an equal one.

    Equal answers lie side by side and all move on by as many places as the largest group of equal
    ones has, so that none of them meets its like unless that group is more than half of all.
    """
    counts = collections.Counter(answers)
    first = {answer: answers.index(answer) for answer in counts}
    order = sorted(range(len(answers)), key=lambda place: (first[answers[place]], place))
    step = max(counts.values())
    moved = [0] * len(answers)
    for place, index in enumerate(order):
        moved[index] = order[(place + step) % len(order)]
    return moved


def _is_wrong(task: Task, answer: str | None) -> bool:
    if answer is None or text_matching.exact_match(answer, task.answer):
        return False
    return answer_f1.ANSWER_F1.find(task.goal.f1)(answer, task.answer, task.category) < 1.0


def _normal(task: Task) -> str:
    return text_matching.normalise_answer(task.answer)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _exact(trajectory: Trajectory) -> float:
    outcome = trajectory.outcome
    if outcome is None or outcome.answer is None:
        return 0.0
    return text_matching.exact_match(outcome.answer, trajectory.task.answer)
