"""What a judge is worth: several prompts, and wrong answers that it should not take."""

import dataclasses
import json

import pytest

from agemem_jax.evaluation import reports
from agemem_jax.evaluation.judging import judged_rows, shuffled_answers, wrong_items
from agemem_jax.evaluation.metrics import measure
from agemem_jax.evaluation.records import Record
from agemem_jax.rewards import judge_prompts
from agemem_jax.rewards.judge_config import JudgeConfig
from agemem_jax.rewards.judge_prompts import AnswerPrompt
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.text_matching import normalise_answer
from agemem_jax.rewards.total import Reward
from agemem_jax.tasks.task import EnvironmentGoal, Question, Task
from tests.rewards.builders import answer, trajectory
from tests.rewards.endpoint import Endpoint, judge_at

OWN = AnswerPrompt("Be like a teacher.")


def task(number, expected, category=""):
    return Task(f"t{number}", Question(f"Question {number}?", expected), category=category)


def played(*answers, expected="Rome"):
    """A trajectory for each answer; None gives none."""
    return [
        trajectory(
            *([] if text is None else [answer(text)]), task=task(number, f"{expected} {number}")
        )
        for number, text in enumerate(answers)
    ]


def test_shuffled_answers_are_wrong_for_every_task_whatever_the_order_of_the_tasks():
    tasks = [task(n, str(1900 + n % 7), "year") for n in range(30)]
    tasks += [task(n, "yes" if n % 2 else "The no.", "verdict") for n in range(30, 50)]
    shuffled = shuffled_answers(tasks)
    for each, other in zip(tasks, shuffled, strict=True):
        assert normalise_answer(other) != normalise_answer(each.answer)
        assert other in {t.answer for t in tasks if t.category == each.category}, "plausible"
    assert sorted(shuffled[:30]) == sorted(t.answer for t in tasks[:30]), "a permutation"
    backwards = shuffled_answers(tasks[::-1])
    assert backwards[::-1] == shuffled


def test_where_most_answers_are_alike_the_others_come_from_elsewhere_or_not_at_all():
    tasks = [task(n, "yes", "verdict") for n in range(4)] + [task(4, "no", "verdict")]
    tasks += [task(5, "1901", "year")]
    shuffled = shuffled_answers(tasks)
    assert all(other != each.answer for each, other in zip(tasks, shuffled, strict=True))
    assert shuffled[5] in ("yes", "no"), "a year has no other year to take"
    alike = [task(n, "Yes." if n else "yes") for n in range(3)]
    assert shuffled_answers(alike) == [None] * 3
    assert shuffled_answers([]) == []


def test_no_more_wrong_answers_are_asked_about_than_allowed():
    tasks = [task(n, str(n)) for n in range(10)]
    assert [sum(i is not None for i in wrong_items(tasks, most)) for most in (0, 4, 10, 99)] == [
        0, 4, 10, 10,
    ]  # fmt: skip


def test_one_task_alone_or_tasks_of_one_answer_have_no_wrong_answers():
    assert wrong_items([task(0, "Rome")], most=200) == [None]
    assert wrong_items([task(0, "Rome"), task(1, "rome")], most=200) == [None, None]
    assert wrong_items([], most=200) == []
    (row,) = judged_rows(played("Rome 0"), OfflineJudge(), most_wrong=200)
    assert row["em"] == 1.0 and set(row.values()) <= {1.0, None}


def test_exact_match_stands_beside_every_judge_and_environments_have_none():
    rows = judged_rows([*played("Rome 0", None, "the rome, 2"), walk()], OfflineJudge(), 9)
    assert [row.get("em") for row in rows] == [1.0, 0.0, 1.0, None]
    assert "j_offline" not in rows[0], "with one prompt it is J"
    # "Rome 1" for "Rome 0" has an F1 of 0.5, which is a score that is accepted.
    assert [row.get("accepts_wrong_offline") for row in rows] == [1.0, 1.0, 1.0, None]


def walk():
    return trajectory(task=Task("walk", EnvironmentGoal("x:Y")))


def lenient_accepts_all(number, body):
    lenient = "generous" in body["messages"][-1]["content"]
    right = "Answer: <<<Rome 0>>>" in body["messages"][-1]["content"]
    return 200, json.dumps({"score": 1.0 if lenient else 0.9 if right else 0.1})


def test_an_llm_judge_is_asked_by_every_prompt_and_its_prompts_stand_in_the_record(tmp_path):
    with Endpoint(lenient_accepts_all) as endpoint:
        judge = judge_at(endpoint.url, prompts=("strict", "lenient"))
        batch = played("Rome 0", "Oslo", None)
        rows = judged_rows(batch, judge, 9)
    assert [row["j_strict"] for row in rows] == [0.9, 0.1, 0.0]
    assert [row["j_lenient"] for row in rows] == [1.0, 1.0, 0.0]
    assert [row["accepts_wrong_lenient"] for row in rows] == [1.0] * 3
    assert sum(row["accepts_wrong_strict"] for row in rows) == 1.0, "of who was asked for Rome 0"
    assert judge.score_answers.__self__.config.prompts[0] == "strict"

    told = judge.description()
    assert told["model"] == "m" and list(told["prompts"]) == [
        "strict", "lenient", "storage", "relevance", "memories",
    ]  # fmt: skip
    rewards = [Reward(0.0, {"task": row["j_strict"]}, {}) for row in rows]
    measures = measure(batch, rewards, [0.0] * 3, 20, 0, rows)
    measures = dataclasses.replace(measures, judged_by=told)
    reports.write_results(tmp_path, [Record("agemem", "AgeMem", {}, measures)])
    (row,) = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert (
        row["accepts_wrong_lenient"]["mean"] == 1.0 and row["f1"]["mean"] < row["j_lenient"]["mean"]
    )
    assert "Nothing between." in row["judged_by"]["prompts"]["strict"]["text"]

    tables = reports.render_tables({"AgeMem": measures}, "title", "m at here")
    reports.write_tables(tmp_path / "evaluation.md", tables)
    text = (tmp_path / "evaluation.md").read_text()
    first = f"J by m at here, prompt strict ({told['prompts']['strict']['id']})."
    assert first in text and "accepts wrong" in text
    lines = [line.split("|") for line in text.splitlines() if "|lenient" in line]
    assert [cell.strip() for cell in lines[0][1:5]] == [
        "AgeMem", "lenient", measures["j_lenient"].percent(), "100.0 [100.0, 100.0]",
    ]  # fmt: skip


def test_an_id_changes_with_every_word_of_a_prompt():
    graded = judge_prompts.identify(judge_prompts.GRADED)
    other = judge_prompts.identify(AnswerPrompt(judge_prompts.GRADED.instruction + " "))
    assert graded["id"] != other["id"] and "QUESTION" in graded["text"]


def test_prompts_are_found_by_name_and_wrong_ones_refused_in_a_sentence():
    assert judge_prompts.find_prompt("tests.evaluation.test_judging:OWN") is OWN
    for prompts, wrong in (
        (("gradde",), "did you mean 'graded'"),
        ((), "one prompt or more"),
        (("strict", "strict"), "each once"),
        (("tests.evaluation.test_judging:task",), "must be an AnswerPrompt"),
    ):
        with pytest.raises(ValueError, match=f"judge.prompts.*{wrong}"):
            JudgeConfig(prompts=prompts)
