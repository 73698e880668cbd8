"""Data sets of Hugging Face become tasks by the same rules as lines of JSON Lines."""

import json
import sys

import pytest

from agemem_jax.tasks.hf_dataset import HFDatasetTasks
from agemem_jax.tasks.task import Question


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    package = pytest.importorskip("datasets", reason="the datasets package is not installed")
    monkeypatch.setattr(package.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    yield package
    package.enable_progress_bars()


def row(index: int, **changes):
    values = {
        "question": f"Where is number {index}?",
        "answer": "Orland",
        "messages": [f"Number {index} is in Orland.", "It is late."],
    }
    return {**values, **changes}


def folder(tmp_path, *rows_, name="data", test=None):
    path = tmp_path / name
    path.mkdir()
    for split, given in (("train", rows_), ("test", test or [row(99)])):
        (path / f"{split}.jsonl").write_text("\n".join(json.dumps(each) for each in given))
    return str(path)


def test_a_folder_of_files_is_read_in_order(tmp_path, datasets):
    source = HFDatasetTasks(name=folder(tmp_path, row(0), row(1)))
    tasks = source("train")
    assert [task.query for task in tasks] == ["Where is number 0?", "Where is number 1?"]
    assert tasks[1].messages == ("Number 1 is in Orland.", "It is late.")
    assert tasks[1].goal == Question("Where is number 1?", "Orland")
    assert tasks[1].task_id == "huggingface-train-row-1"
    assert [task.query for task in source("test")] == ["Where is number 99?"]
    for index in (-1, 2):
        with pytest.raises(IndexError, match="outside a source of 2 tasks"):
            tasks[index]


def test_a_saved_data_set_is_read_with_columns_of_other_names(tmp_path, datasets):
    columns = {
        "prompt": ["Who?", "When?"],
        "label": [0, 1],
        "context": ["Ada did.", "In 1900."],
        "noise": [["Eda did not."], []],
        "gold": [["Ada did it."], ["It was in 1900."]],
        "old": [None, ["It was in 1899."]],
        "key": [10, 20],
        "level": [1, 2],
    }
    data = datasets.Dataset.from_dict(columns)
    data = data.cast_column("label", datasets.ClassLabel(names=["Ada", "1900"]))
    path = tmp_path / "saved"
    datasets.DatasetDict(train=data).save_to_disk(str(path))
    source = HFDatasetTasks(
        name=str(path),
        train_split="train[:50%]",
        test_split="train[50%:]",
        question_column="prompt",
        answer_column="label",
        messages_column="context",
        distractors_column="noise",
        facts_column="gold",
        stale_facts_column="old",
        id_column="key",
        category_column="level",
    )
    (first,), (second,) = source("train"), source("test")
    assert first.goal == Question("Who?", "Ada")
    assert (first.messages, first.distractors) == (("Ada did.",), ("Eda did not.",))
    assert (first.supporting_facts, first.stale_facts) == (("Ada did it.",), ())
    assert (first.task_id, first.category) == ("huggingface-train-10", "1")
    assert second.goal == Question("When?", "1900")
    assert second.stale_facts == ("It was in 1899.",)
    assert second.data_set == "huggingface"


@pytest.mark.parametrize("answer, text", [(1900, "1900"), (2.5, "2.5")])
def test_numbers_as_answers_become_text(tmp_path, datasets, answer, text):
    path = folder(tmp_path, row(0, answer=answer), test=[row(1, answer=answer)])
    assert HFDatasetTasks(name=path)("train")[0].answer == text


def test_files_that_cannot_be_read_are_told(tmp_path, datasets):
    path = folder(tmp_path, row(0, answer=1), test=[row(1, answer="no number")])
    with pytest.raises(ValueError, match="could not be loaded: .*Failed to parse"):
        HFDatasetTasks(name=path)


WRONG = {
    "empty question": (row(2, question=" "), "field 'question' holds empty text; it should"),
    "no answer": (row(2, answer=None), "field 'answer' holds null; it should hold the expected"),
    "empty message": (row(2, messages=["m", ""]), "field 'messages' holds empty text at place 2"),
}


@pytest.mark.parametrize("wrong, reason", WRONG.values(), ids=WRONG)
def test_a_wrong_row_is_told_by_number_split_and_reason(tmp_path, datasets, wrong, reason):
    path = folder(tmp_path, row(0), row(1), wrong)
    with pytest.raises(ValueError) as caught:
        HFDatasetTasks(name=path)
    assert str(caught.value).startswith(f"row 2 of split train of {path}: {reason}")


def test_rows_of_one_id_are_refused(tmp_path, datasets):
    path = folder(tmp_path, row(0, id="x"), row(1, id="y"), row(2, id="x"), test=[row(3, id="x")])
    with pytest.raises(ValueError, match="row 2 of split train .*: the id 'x' is that of row 0"):
        HFDatasetTasks(name=path, id_column="id")


def test_an_unknown_column_split_and_name_are_told(tmp_path, datasets):
    path = folder(tmp_path, row(0))
    with pytest.raises(ValueError, match="no column 'reply', which answer_column names; its col"):
        HFDatasetTasks(name=path, answer_column="reply")
    with pytest.raises(ValueError, match=r"\(split dev\) could not be loaded: Unknown split"):
        HFDatasetTasks(name=path, test_split="dev")
    with pytest.raises(ValueError, match="The data set no-one/none .* could not be loaded: "):
        HFDatasetTasks(name="no-one/none")


def test_one_data_set_saved_without_splits_is_told(tmp_path, datasets):
    path = str(tmp_path / "one")
    datasets.Dataset.from_list([row(0)]).save_to_disk(path)
    with pytest.raises(ValueError, match="holds one data set without splits"):
        HFDatasetTasks(name=path)


def test_what_is_held_out_is_not_trained_on():
    with pytest.raises(ValueError, match="are both 'train'; they must be different parts"):
        HFDatasetTasks(name="data", test_split="train")
    with pytest.raises(ValueError, match="are both None"):
        HFDatasetTasks(name="data", train_split=None, test_split=None)
    with pytest.raises(ValueError, match="need the name of a data set"):
        HFDatasetTasks()


def test_a_split_that_was_left_out_is_told(tmp_path, datasets):
    source = HFDatasetTasks(name=folder(tmp_path, row(0)), train_split=None)
    assert len(source("test")) == 1
    with pytest.raises(ValueError, match="no train tasks: name a part as train_split"):
        source("train")
    with pytest.raises(ValueError, match="must be one of train, test, not 'dev'"):
        source("dev")


def test_a_missing_package_is_told_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="need the datasets package: pip install"):
        HFDatasetTasks(name="owner/data-that-was-never-asked-for")
