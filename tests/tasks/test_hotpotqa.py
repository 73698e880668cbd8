"""The HotpotQA builder and its tasks, on the real sample and on three rows made by hand."""

import json
import re
import time
from pathlib import Path

import pytest

from agemem_jax.tasks.hotpotqa import HotpotQASource, HotpotQATaskConfig, builder, to_task
from agemem_jax.tasks.hotpotqa.rows import FIELDS, parse_row, read_rows

SAMPLE = Path(__file__).parents[2] / ".." / "shared" / "data" / "hotpotqa"
FILES = {
    "train_file": "hotpot_train_sample.json",
    "validation_file": "hotpot_dev_sample.json",
}


def make_row(row_id="r0", **changes):
    row = {
        "_id": row_id,
        "question": "In which country is the town of the Vell Mill?",
        "answer": "Orland",
        "type": "bridge",
        "level": "easy",
        "supporting_facts": [["Vell Mill", 1], ["Tarn", 0]],
        "context": [
            ["Vell", ["Vell is a given name.", " It is rare."]],
            ["Tarn", ["Tarn is a town in Orland.", " It has a mill — “the Mill”."]],
            ["Mills", ["Mills grind grain into flour."]],
            ["Vell Mill", ["It was built in 1900.", " It stands in Tarn.", " It is red."]],
        ],
    }
    row.update(changes)
    return {field: value for field, value in row.items() if value is not None}


def write(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")


@pytest.fixture
def manual_dir(tmp_path):
    directory = tmp_path / "manual"
    directory.mkdir()
    write(directory / builder.TRAIN_FILE, [make_row(f"r{i}") for i in range(3)])
    write(directory / builder.VALIDATION_FILE, [make_row("v0", level="hard")])
    return directory


def test_handmade_rows_come_back_in_order_with_every_field(tmp_path, manual_dir):
    source = HotpotQASource("train", tmp_path / "data", manual_dir=manual_dir)
    assert len(source) == 3
    for index in range(3):
        assert source.row(index) == parse_row(make_row(f"r{index}"), "train", index)
    validation = HotpotQASource("validation", tmp_path / "data", manual_dir=manual_dir)
    assert [validation[i].task_id for i in range(len(validation))] == ["hotpotqa-v0"]
    assert validation.row(0).level == "hard"
    with pytest.raises(IndexError, match="outside a source of 1 tasks"):
        validation[1]


def test_gold_paragraphs_are_messages_and_the_others_distract():
    row = parse_row(make_row(), "train", 0)
    task = to_task(row, HotpotQATaskConfig(num_distractors=1))
    assert task.messages == (
        "Tarn: Tarn is a town in Orland. It has a mill — “the Mill”.",
        "Vell Mill: It was built in 1900. It stands in Tarn. It is red.",
    )
    assert task.distractors == ("Vell: Vell is a given name. It is rare.",)
    assert task.supporting_facts == ("Vell Mill: It stands in Tarn.", "Tarn is a town in Orland.")
    assert (task.query, task.answer) == (row.question, row.answer)
    assert (task.category, task.data_set, task.stale_facts) == ("bridge", "hotpotqa", ())


def test_a_short_message_drops_words_but_never_a_gold_sentence():
    row = parse_row(make_row(), "train", 0)
    task = to_task(row, HotpotQATaskConfig(max_words=6))
    assert task.messages == (
        "Tarn: Tarn is a town in Orland.",
        "Vell Mill: It was ... It stands in Tarn.",
    )
    assert task.distractors == (
        "Vell: Vell is a given name. It ...",
        "Mills: Mills grind grain into flour.",
    )


def test_other_contents_under_the_same_names_are_prepared_anew(tmp_path, manual_dir):
    assert len(HotpotQASource("train", tmp_path / "data", manual_dir=manual_dir)) == 3
    write(manual_dir / builder.TRAIN_FILE, [make_row("other")])
    source = HotpotQASource("train", tmp_path / "data", manual_dir=manual_dir)
    assert [task.task_id for task in source] == ["hotpotqa-other"]


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named_with_its_file_and_row(tmp_path, manual_dir, field):
    rows = [make_row(f"r{i}") for i in range(3)]
    del rows[2][field]
    write(manual_dir / builder.TRAIN_FILE, rows)
    with pytest.raises(ValueError) as caught:
        list(read_rows(manual_dir / builder.TRAIN_FILE))
    where = "row 2" if field == "_id" else "row 2 (_id r2)"
    assert str(caught.value) == (
        f"hotpot_train_v1.1.json, {where}: field '{field}' is missing; "
        f"it should hold {FIELDS[field]}."
    )


def test_preparing_a_file_with_a_missing_field_gives_that_sentence(tmp_path, manual_dir):
    write(manual_dir / builder.TRAIN_FILE, [make_row("r0"), make_row("r1", answer=None)])
    sentence = (
        "hotpot_train_v1.1.json, row 1 (_id r1): field 'answer' is missing; "
        "it should hold the answer as text."
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        HotpotQASource("train", tmp_path / "data", manual_dir=manual_dir)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("answer", 7, "holds 7"),
        ("answer", " ", "holds ' '"),
        ("type", "chain", "holds 'chain'"),
        ("context", [["Tarn", "A town."]], "holds [['Tarn', 'A town.']]"),
        ("context", [["Tarn", ["A."]], ["Tarn", ["B."]]], "holds [['Tarn', ['A.']]"),
        ("supporting_facts", [["Tarn", "0"]], "holds [['Tarn', '0']]"),
        ("supporting_facts", [["Elsewhere", 0], ["Tarn", 9]], "holds [['Elsewhere', 0]"),
    ],
)
def test_a_field_of_the_wrong_shape_is_shown(field, value, problem):
    with pytest.raises(ValueError) as caught:
        parse_row(make_row(**{field: value}), "some.json", 4)
    assert f"some.json, row 4 (_id r0): field '{field}' {problem}" in str(caught.value)
    assert str(caught.value).endswith(f"; it should hold {FIELDS[field]}.")


def test_a_supporting_fact_that_points_at_nothing_is_left_out():
    row = make_row(supporting_facts=[["Tarn", 0], ["Tarn", 5], ["Elsewhere", 0]])
    assert parse_row(row, "train", 0).supporting_facts == ((1, 0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "train.json must hold one JSON array"),
        ("[3]", "train.json, row 0: a row must be a JSON object"),
        ('[{"_id": "x", ', "train.json, row 0: not valid JSON"),
        (json.dumps([make_row()])[:-1], "train.json, after row 0: expected ',' or ']'"),
    ],
)
def test_a_broken_file_is_reported_with_the_row(tmp_path, text, message):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        list(read_rows(tmp_path / "train.json"))


def test_an_empty_array_and_any_white_space_are_read(tmp_path):
    (tmp_path / "a.json").write_text(" [ \n ] ")
    assert list(read_rows(tmp_path / "a.json")) == []
    (tmp_path / "a.json").write_text(json.dumps([make_row("a"), make_row("b")], indent=3))
    assert [row.row_id for row in read_rows(tmp_path / "a.json")] == ["a", "b"]


def test_a_missing_file_says_what_to_put_where(tmp_path, manual_dir):
    (manual_dir / builder.VALIDATION_FILE).unlink()
    sentence = f"HotpotQA's hotpot_dev_distractor_v1.json is not in manual_dir {manual_dir}: put it"
    with pytest.raises(FileNotFoundError, match=re.escape(sentence)):
        HotpotQASource("train", tmp_path / "data", manual_dir=manual_dir)
    with pytest.raises(FileNotFoundError, match="name it as manual_dir"):
        HotpotQASource("train", tmp_path / "data", train_file="mine.json")


def test_a_failed_download_says_what_to_put_where(tmp_path, monkeypatch):
    def refuse(self, url_or_urls):
        raise OSError("no route")

    monkeypatch.setattr(builder, "_reach", lambda url: None)
    monkeypatch.setattr(builder.tfds.download.DownloadManager, "download", refuse)
    with pytest.raises(ConnectionError, match=r"\(no route\): download hotpot_train_v1.1.json"):
        HotpotQASource("train", tmp_path / "data")


def test_a_server_that_nobody_reaches_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "URL", "http://127.0.0.1:9/")  # nobody listens there
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match="Connection refused.*: download hotpot_train_v1.1"):
        HotpotQASource("train", tmp_path / "data")
    assert time.monotonic() - begun < 30


def test_official_files_are_asked_for_by_url(tmp_path, manual_dir, monkeypatch):
    asked = []

    def fetch(self, urls):
        asked.extend(urls)
        return [str(manual_dir / url.rsplit("/", 1)[1]) for url in urls]

    monkeypatch.setattr(builder, "_reach", lambda url: None)
    monkeypatch.setattr(builder.tfds.download.DownloadManager, "download", fetch)
    assert len(HotpotQASource("train", tmp_path / "data")) == 3
    assert asked == [
        "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_train_v1.1.json",
        "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json",
    ]


def test_there_is_no_test_split(tmp_path):
    with pytest.raises(ValueError, match="must be train or validation, not 'test'"):
        HotpotQASource("test", tmp_path)


@pytest.mark.skipif(
    not (SAMPLE / FILES["train_file"]).is_file(),
    reason="the HotpotQA sample is not at ../shared/data/hotpotqa",
)
def test_the_real_sample_survives_the_round_trip(tmp_path):
    for split, file, count in (
        ("train", "train_file", 400),
        ("validation", "validation_file", 100),
    ):
        source = HotpotQASource(split, tmp_path, manual_dir=SAMPLE, **FILES)
        official = json.loads((SAMPLE / FILES[file]).read_text())
        assert len(source) == len(official) == count
        for index, expected in enumerate(official):
            row, task = source.row(index), source[index]
            assert [[p.title, list(p.sentences)] for p in row.context] == expected["context"]
            assert [[row.context[p].title, s] for p, s in row.supporting_facts] == expected[
                "supporting_facts"
            ]
            assert task.task_id == f"hotpotqa-{expected['_id']}"
            assert (task.query, task.answer, task.category) == (
                expected["question"],
                expected["answer"],
                expected["type"],
            )
            gold = {title for title, _ in expected["supporting_facts"]}
            assert len(task.messages) == len(gold)
            assert len(task.distractors) == min(8, len(expected["context"]) - len(gold))
            paragraphs = dict(expected["context"])
            said = "\n".join(task.messages)
            for title, sentence in expected["supporting_facts"]:
                assert paragraphs[title][sentence].strip() in said
