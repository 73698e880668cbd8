"""JSON Lines of a user's own become tasks, and a wrong line is told by place and reason."""

import concurrent.futures
import json
import multiprocessing
import time

import pytest

from agemem_jax.plugins import registry
from agemem_jax.tasks import rows
from agemem_jax.tasks.jsonl import JsonLinesTasks
from agemem_jax.tasks.task import EnvironmentGoal, Question, Task

ROW = {"question": "Where does Ada work?", "answer": "Orland", "messages": ["Ada is in Orland."]}
FULL = {
    **ROW,
    "distractors": ["Eda works in Tarn."],
    "facts": ["Ada works in Orland."],
    "stale_facts": ["Ada works in Vell."],
    "id": "a-1",
    "category": "work",
}
ACTING = {
    "environment": "babyai",
    "options": {"level": "GoToLocal", "sizes": [1, 2]},
    "instruction": "Go to the red ball.",
    "max_steps": 12,
    "seed": 4,
}


@pytest.fixture
def write(tmp_path):
    """Writes lines (objects, or text as it is) and returns the path as text."""

    def to_file(*lines, name="tasks.jsonl", encoding="utf-8"):
        path = tmp_path / name
        text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
        path.write_bytes(text.encode(encoding))
        return str(path)

    return to_file


def fault(file: str) -> str:
    """The sentence that refuses a file, without its folder."""
    with pytest.raises(ValueError) as caught:
        JsonLinesTasks(train_file=file)
    text = str(caught.value)
    assert text.startswith(file), text
    assert "\n" not in text and text[-1] in ".?"
    return text.rpartition("/")[2]


def test_every_field_of_a_line_reaches_the_task(write):
    (task,) = JsonLinesTasks(train_file=write(FULL))("train")
    assert task == Task(
        task_id="jsonl-train-a-1",
        goal=Question(FULL["question"], FULL["answer"]),
        messages=tuple(FULL["messages"]),
        distractors=tuple(FULL["distractors"]),
        supporting_facts=tuple(FULL["facts"]),
        stale_facts=tuple(FULL["stale_facts"]),
        category="work",
        data_set="jsonl",
    )


def test_a_line_may_name_an_environment_instead_of_a_question(write):
    tasks = JsonLinesTasks(test_file=write(ACTING, {"environment": "my.module:World"}))("test")
    assert tasks[0].goal == EnvironmentGoal(**ACTING)
    assert tasks[1].goal == EnvironmentGoal("my.module:World")
    assert tasks[1].messages == ()


def test_both_files_come_in_the_order_of_their_lines_with_ids_of_their_own(write):
    train = write(ROW, {**ROW, "id": 7}, name="train.jsonl")
    source = JsonLinesTasks(train_file=train, test_file=write({**ROW, "id": 7}, name="test.jsonl"))
    assert [t.task_id for t in source("train")] == ["jsonl-train-line-1", "jsonl-train-7"]
    assert [t.task_id for t in source("test")] == ["jsonl-test-7"]
    assert JsonLinesTasks.splits == ("train", "test")


def test_blank_lines_a_mark_at_the_start_and_windows_line_ends_are_passed_over(tmp_path):
    path = tmp_path / "windows.jsonl"
    lines = ["", json.dumps(ROW), "  ", json.dumps({**ROW, "question": "Wo ist Köln? \u2028 ☕"})]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    source = JsonLinesTasks(train_file=str(path))("train")
    assert [task.task_id for task in source] == ["jsonl-train-line-2", "jsonl-train-line-4"]
    raw = tmp_path / "raw.jsonl"
    raw.write_text(json.dumps({**ROW, "answer": "Köln \u2028 ☕"}, ensure_ascii=False), "utf-8-sig")
    assert JsonLinesTasks(train_file=str(raw))("train")[0].answer == "Köln \u2028 ☕"


def test_a_whole_surrogate_pair_is_a_character(write):
    file = write('{"question": "\\ud83d\\ude00?", "answer": "a", "messages": []}')
    assert JsonLinesTasks(train_file=file)("train")[0].query == "\U0001f600?"


WRONG_ROWS = {
    "missing question": ({"answer": "a", "messages": []}, "field 'question' is missing"),
    "missing answer": ({"question": "q", "messages": []}, "field 'answer' is missing"),
    "missing messages": ({"question": "q", "answer": "a"}, "field 'messages' is missing"),
    "nothing": ({}, "field 'question' is missing"),
    "unknown": ({**ROW, "mesages": []}, "no field \"mesages\"; did you mean 'messages'?"),
    "strange": ({**ROW, "xyz": 1}, 'no field "xyz"; fields are question, answer,'),
    "empty question": ({**ROW, "question": " "}, "field 'question' holds empty text"),
    "number": ({**ROW, "answer": 3}, "field 'answer' holds a number; it should hold the expected"),
    "null": ({**ROW, "facts": None}, "field 'facts' holds null"),
    "text": ({**ROW, "messages": "m"}, "field 'messages' holds text; it should hold a list"),
    "in a list": ({**ROW, "messages": ["m", {}]}, "'messages' holds an object at place 2"),
    "empty message": ({**ROW, "messages": ["m", ""]}, "'messages' holds empty text at place 2"),
    "half a pair": ({**ROW, "facts": ["\ud83d"]}, "half a surrogate pair (\\ud83d) at place 1"),
    "half in options": ({**ACTING, "options": {"a": ["\udc00"]}}, "surrogate pair (\\udc00)"),
    "half in a name": ({**ROW, "\ud83d": 1}, 'no field "\\ud83d"'),
    "truth as id": ({**ROW, "id": True}, "field 'id' holds true or false"),
    "two goals": ({**ROW, **ACTING}, "'question' of a question and 'environment' of an"),
    "half a goal": ({"seed": 1}, "field 'environment' is missing"),
    "no steps": ({**ACTING, "max_steps": 0}, "field 'max_steps' holds 0; it should hold a whole"),
    "seed": ({**ACTING, "seed": -1}, "field 'seed' holds -1"),
    "fraction": ({**ACTING, "seed": 1.5}, "field 'seed' holds a number; it should hold a whole"),
    "options": ({**ACTING, "options": []}, "field 'options' holds a list"),
    "list": ([ROW], "a row must be a JSON object such as"),
    "text alone": ("0", "a row must be a JSON object such as"),
    "cut off": ('{"question": "q', "it is not JSON (unterminated string starting at at column"),
    "two objects": ("{} {}", "it is not JSON (extra data at column 4)"),
    "twice": ('{"id": 1, "id": 2}', 'the field "id" is given twice'),
    "no number": ('{"seed": NaN}', "NaN is no number of JSON"),
    "infinite": ('{"environment": "x", "options": {"a": 1e999}}', "a number that is too large"),
    "digits": ('{"seed": ' + "1" * 5000 + "}", "too many digits"),
    "deep": ("[" * 200_000, "nested too deep"),
}


@pytest.mark.parametrize("row, reason", WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_a_wrong_line_is_told_by_file_number_and_reason(write, row, reason):
    sentence = fault(write(ROW, "", row, ROW))
    assert sentence.startswith("tasks.jsonl, line 3: ")
    assert reason in sentence


def test_a_line_in_another_encoding_is_told_by_its_byte(write):
    file = write(ROW, '{"question": "caf\xe9"}', encoding="latin-1")
    assert fault(file) == "tasks.jsonl, line 2: byte 18 is not UTF-8; save the file as UTF-8."
    assert fault(write(ROW, encoding="utf-16")).startswith("tasks.jsonl, line 1: byte 1 is not")


def test_a_second_line_of_one_id_is_told_with_the_first(write):
    file = write(ROW, {**ROW, "id": "7"}, "", {**ROW, "id": 7})
    assert fault(file) == (
        "tasks.jsonl, line 4: the id '7' is that of line 2; every line must have its own."
    )
    assert "the id 'line-1' is that of line 1" in fault(write(ROW, {**ROW, "id": "line-1"}))


def test_a_file_without_a_line_is_refused(write):
    sentence = "tasks.jsonl holds no line; each line must be a JSON object, a task."
    assert fault(write()) == sentence
    assert fault(write("", "  ")) == sentence


def test_files_that_are_not_there_are_told_by_option(tmp_path, write):
    with pytest.raises(ValueError, match="need a file: give its path as train_file, test_file"):
        JsonLinesTasks()
    with pytest.raises(ValueError, match="test_file is .*/none.jsonl, but there is no such file"):
        JsonLinesTasks(train_file=write(ROW), test_file=str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="train_file is .*, a folder"):
        JsonLinesTasks(train_file=str(tmp_path))
    with pytest.raises(ValueError, match="are both .*; held-out tasks must be others"):
        JsonLinesTasks(train_file=write(ROW), test_file=write(ROW))


def test_a_split_without_a_file_and_an_unknown_one_are_refused(write):
    source = JsonLinesTasks(train_file=write(ROW))
    with pytest.raises(ValueError, match="no test tasks: give the path of their file as test_file"):
        source("test")
    with pytest.raises(ValueError, match="must be one of train, test, not 'dev'"):
        source("dev")


def test_a_task_outside_is_an_index_error(write):
    tasks = JsonLinesTasks(train_file=write(ROW, ROW))("train")
    assert len(tasks) == len(list(tasks)) == 2
    for index in (-1, 2):
        with pytest.raises(IndexError, match="outside a source of 2 tasks"):
            tasks[index]


def test_a_file_that_changes_while_it_is_read_is_told(write):
    file = write(ROW, ROW)
    tasks = JsonLinesTasks(train_file=file)("train")
    write(ROW, {**ROW, "answer": "other"})
    with pytest.raises(ValueError, match="has changed since its lines were checked"):
        tasks[1]
    assert JsonLinesTasks(train_file=file)("train")[1].answer == "other"


def test_another_process_gets_the_same_tasks(write):
    tasks = JsonLinesTasks(train_file=write(FULL, {**ROW, "id": 2}))("train")
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as other:
        assert other.submit(list, tasks).result() == list(tasks)


def test_thousands_of_lines_are_checked_fast_and_read_one_by_one(write):
    lines = [{**ROW, "messages": ["some words " * 30] * 4, "id": i} for i in range(5_000)]
    file = write(*lines)
    begin = time.perf_counter()
    tasks = JsonLinesTasks(train_file=file)("train")
    assert len(tasks) == 5_000
    assert time.perf_counter() - begin < 5.0
    assert tasks[4_321].task_id == "jsonl-train-4321"
    assert tasks.places.nbytes == 5_000 * 16  # no row is held


def test_options_come_from_a_configuration(write):
    file = write(ROW)
    source = registry.bind(JsonLinesTasks, {"train_file": file}, "tasks.options")
    assert len(source("train")) == 1
    with pytest.raises(ValueError, match="no option 'trainfile'; did you mean 'train_file'?"):
        registry.bind(JsonLinesTasks, {"trainfile": file}, "tasks.options")


def test_what_each_field_should_hold_is_said_for_all_fields_of_a_row():
    assert set(rows.FIELDS) == set(FULL) | set(ACTING)
