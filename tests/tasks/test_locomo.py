"""LoCoMo's conversations become Stage 1, its questions Stage 3, as published and in order."""

import collections
import copy
import json
import pathlib

import pytest

from agemem_jax.plugins import registry
from agemem_jax.rewards import locomo_f1
from agemem_jax.rewards.text_matching import key_tokens
from agemem_jax.tasks.locomo import CATEGORIES, OFFICIAL, LoCoMoTasks

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "locomo"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"LoCoMo's files are not in {DATA}")

TALK = {
    "speaker_a": "Ada",
    "speaker_b": "Ben",
    "session_1_date_time": "1:56 pm on 8 May, 2023",
    "session_1": [
        {"speaker": "Ada", "dia_id": "D1:1", "text": "I saw  the mill\nyesterday."},
        {
            "speaker": "Ben",
            "dia_id": "D1:2",
            "text": "Look!",
            "blip_caption": "a photo of a red mill",
        },
        {"speaker": "Ada", "dia_id": "D1:3", "text": "Mine is blue."},
    ],
    "session_2_date_time": "9:00 am on 1 June, 2023",
    "session_2": [{"speaker": "Ben", "dia_id": "D2:1", "text": "It is late."}],
    "session_10": [],
    "session_11_date_time": "9:00 am on 1 July, 2023",
}
QA = [
    {"question": "When did Ada see it?", "answer": "7 May 2023", "evidence": ["D1:1"]},
    {"question": "How many mills?", "answer": 2, "evidence": ["D1:02; D:1:3", "D9:9", "D"]},
    {"question": "Is Ben late?", "adversarial_answer": "yes", "evidence": ["D2:1"]},
    {"question": "Is it Ben's?", "answer": "No", "adversarial_answer": "yes", "evidence": []},
]
for _question, _category in zip(QA, (2, 4, 5, 5), strict=True):
    _question["category"] = _category
BEN = "Ada and Ben, 9:00 am on 1 June, 2023:\nBen: It is late."


def write(folder, *names, **changes):
    for name in names or ("x", "y"):
        (folder / f"{name}.json").write_text(json.dumps({**TALK, "qa": QA, **changes}))
    return str(folder)


def source(folder, *names, **options) -> LoCoMoTasks:
    names = names or ("x", "y")
    return LoCoMoTasks(data_dir=write(folder, *names), conversations=names, **options)


def test_a_session_is_a_message_with_its_time_and_speakers_in_front(tmp_path):
    task = source(tmp_path)("test")[0]
    assert task.messages == (
        "Ada and Ben, 1:56 pm on 8 May, 2023:\n"
        "Ada: I saw the mill yesterday.\n"
        "Ben: Look! [photo: a red mill]\n"
        "Ada: Mine is blue.",
        BEN,
    )
    assert task.goal.answer == "7 May 2023"
    assert task.supporting_facts == ("Ada said on 8 May, 2023: I saw the mill yesterday.",)
    assert (task.task_id, task.category, task.data_set) == ("locomo-x-0", "temporal", "locomo")


def test_long_sessions_may_be_cut_into_messages_of_some_turns(tmp_path):
    task = source(tmp_path, turns_per_message=2, photos=False)("test")[0]
    head = "Ada and Ben, 1:56 pm on 8 May, 2023:\n"
    assert task.messages == (
        f"{head}Ada: I saw the mill yesterday.\nBen: Look!",
        f"{head}Ada: Mine is blue.",
        BEN,
    )


def test_evidence_is_found_however_it_is_written_and_what_points_at_nothing_is_left_out(tmp_path):
    tasks = source(tmp_path)("test")
    assert tasks[1].supporting_facts == (
        "Ben said on 8 May, 2023: Look! (with a photo: a red mill)",
        "Ada said on 8 May, 2023: Mine is blue.",
    )
    assert tasks[1].goal.answer == "2"


def test_what_was_never_said_is_expected_to_be_refused(tmp_path):
    tasks = source(tmp_path, categories=(5,))("test")
    assert [task.task_id for task in tasks] == ["locomo-x-2", "locomo-x-3"] + [
        "locomo-y-2",
        "locomo-y-3",
    ]
    assert tasks[0].answer == "Not mentioned in the conversation"
    assert locomo_f1.score(tasks[0].answer, tasks[0].answer, tasks[0].category) == 1.0
    assert tasks[1].answer == "No"  # the one kind that the data answers


def test_a_question_is_followed_by_how_to_answer_unless_that_is_turned_off(tmp_path):
    question = QA[0]["question"]
    assert source(tmp_path, hint=False)("test")[0].query == question
    hinted = source(tmp_path)("test")[0].query
    assert hinted.startswith(question) and "not mentioned" in hinted
    assert key_tokens(hinted) == key_tokens(question)


def test_distractors_are_turns_of_other_conversations_and_stay_the_same(tmp_path):
    folder = write(tmp_path, "x")
    write(tmp_path, "y", speaker_a="Cid", speaker_b="Dan")
    options = {"data_dir": folder, "conversations": ("x", "y"), "distractors": 3}
    tasks = LoCoMoTasks(**options)("test")
    for task in tasks:
        others = "Cid and Dan, " if task.task_id.startswith("locomo-x") else "Ada and Ben, "
        assert len(task.distractors) == 3
        assert all(text.startswith(others) for text in task.distractors)
    assert list(LoCoMoTasks(**options)("test")) == list(tasks)
    assert LoCoMoTasks(**{**options, "distractors": 0})("test")[0].distractors == ()


def test_conversations_to_train_on_are_held_out_of_the_test(tmp_path):
    names = ("w", "x", "y", "z")
    split = source(tmp_path, *names, train_conversations=("x", "z"))
    ids = {s: {task.task_id.split("-")[1] for task in split(s)} for s in split.splits}
    assert ids == {"train": {"x", "z"}, "test": {"w", "y"}}
    assert len(split("train")) + len(split("test")) == len(names) * len(QA)
    with pytest.raises(ValueError, match="no split for training: name conversations"):
        source(tmp_path)("train")


def test_the_single_file_of_all_conversations_gives_the_same_tasks(tmp_path):
    folder = write(tmp_path)
    single = tmp_path / "single"
    single.mkdir()
    items = [{"sample_id": f"conv-{n}", "conversation": TALK, "qa": QA} for n in ("x", "y")]
    (single / "locomo10.json").write_text(json.dumps(items))
    want = list(LoCoMoTasks(data_dir=folder, conversations=("x", "y"))("test"))
    for path in (single, single / "locomo10.json"):
        given = LoCoMoTasks(data_dir=str(path), conversations=("x", "y"))("test")
        assert list(given) == want


def test_options_come_from_a_configuration_as_lists(tmp_path):
    options = {"data_dir": write(tmp_path), "conversations": ["x", "y"], "categories": [2]}
    (first, second) = registry.bind(LoCoMoTasks, options, "tasks.options")("test")
    assert (first.category, second.category) == ("temporal", "temporal")
    with pytest.raises(ValueError, match="tasks.options.categories"):
        registry.bind(LoCoMoTasks, {**options, "categories": ["temporal"]}, "tasks.options")


def test_a_task_outside_is_an_index_error(tmp_path):
    tasks = source(tmp_path)("test")
    for index in (-1, len(tasks)):
        with pytest.raises(IndexError, match="outside a source of 8 tasks"):
            tasks[index]


WRONG_OPTIONS = {
    "no data": ({"data_dir": None}, "download data/locomo10.json of https"),
    "nowhere": ({"data_dir": "/none"}, "data_dir is /none, which holds no JSON file"),
    "not there": ({"conversations": ("x", "26")}, "conversations are x, 26, but .* holds x, y"),
    "none": ({"conversations": ()}, "conversations are none, but .* holds x, y"),
    "all trained": ({"train_conversations": ("x", "y")}, "must be some, and not all, of x, y"),
    "unknown": ({"train_conversations": ("z",)}, "must be some, and not all, of x, y"),
    "alone": ({"train_conversations": ("x",)}, "it has y alone; set distractors to 0"),
    "category": ({"categories": (1, 6)}, r"categories are \(1, 6\); they must be some of 1 multi"),
    "no category": ({"categories": ()}, r"categories are \(\); they must be some of 1 multi-hop"),
    "turns": ({"turns_per_message": -1}, "turns_per_message is -1; it must be at least 0"),
    "distractors": ({"distractors": -1}, "distractors is -1; it must be at least 0"),
}


@pytest.mark.parametrize("options, sentence", WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_a_wrong_option_is_told_in_a_sentence(tmp_path, options, sentence):
    good = {"data_dir": write(tmp_path), "conversations": ("x", "y")}
    with pytest.raises(ValueError, match=sentence):
        LoCoMoTasks(**{**good, **options})


def changed(place, value):
    """A conversation with one part in another form; None removes it."""
    item = copy.deepcopy({**TALK, "qa": QA})
    *path, last = place
    part = item
    for key in path:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return item


WRONG_FILES = {
    "speaker": (("speaker_b",), None, "x.json: it must hold two names, 'speaker_a' and"),
    "session": (("session_1",), {}, "x.json: it must hold a list of turns as 'session_1'"),
    "time": (("session_2_date_time",), None, "the time of it as 'session_2_date_time'"),
    "turn": (("session_1", 1, "text"), None, "x.json, session_1, turn 2: it must hold text as"),
    "id": (("session_1", 0, "dia_id"), "1", "x.json, session_1, turn 1: .*'dia_id' such as"),
    "questions": (("qa",), None, "x.json: it must hold a list of questions as 'qa'"),
    "question": (("qa", 1, "question"), " ", "x.json, question 1: it must hold text as 'question'"),
    "answer": (("qa", 1, "answer"), None, "x.json, question 1: it must hold text or a number as"),
    "category": (("qa", 0, "category"), 6, "x.json, question 0: it must hold a 'category' from"),
    "evidence": (("qa", 0, "evidence"), "D1:1", "x.json, question 0: it must hold a list of turns"),
}


@pytest.mark.parametrize("place, value, sentence", WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_of_another_form_is_told_by_place_and_reason(tmp_path, place, value, sentence):
    folder = write(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps(changed(place, value)))
    with pytest.raises(ValueError, match=sentence):
        LoCoMoTasks(data_dir=folder, conversations=("x", "y"))


def test_a_file_that_is_cut_off_is_told(tmp_path):
    folder = write(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps(TALK)[:100])
    with pytest.raises(ValueError, match="x.json is not JSON .*cut off while it was downloaded"):
        LoCoMoTasks(data_dir=folder, conversations=("x", "y"))


def test_the_names_of_categories_are_those_that_scores_are_counted_by():
    pytest.importorskip("nltk", reason="nltk, which stems words, is not installed")
    for name in CATEGORIES.values():
        assert locomo_f1.score("", "not mentioned", name) == 0.0


@needs_data
def test_all_1986_questions_are_read_with_the_published_counts_in_the_order_of_the_files():
    tasks = LoCoMoTasks(data_dir=str(DATA))("test")
    assert len(tasks) == 1986
    counts = collections.Counter(task.category for task in tasks)
    assert counts == {
        "single-hop": 841,
        "adversarial": 446,
        "temporal": 321,
        "multi-hop": 282,
        "open-domain": 96,
    }
    files = {name: json.loads((DATA / f"{name}.json").read_text()) for name in OFFICIAL}
    questions = [(name, each) for name in OFFICIAL for each in files[name]["qa"]]
    for task, (name, question) in zip(tasks, questions, strict=True):
        assert task.task_id.startswith(f"locomo-{name}-")
        assert task.query.startswith(question["question"].strip())
        answer = str(question.get("answer", "Not mentioned in the conversation"))
        assert task.answer == answer.strip()
    assert len({task.task_id for task in tasks}) == 1986
    assert len(LoCoMoTasks(data_dir=str(DATA), categories=(1, 2, 3, 4))("test")) == 1540


@needs_data
@pytest.mark.parametrize("turns", [0, 1, 8])
def test_every_turn_of_a_conversation_is_said_once_and_in_order(turns):
    tasks = LoCoMoTasks(data_dir=str(DATA), turns_per_message=turns, photos=False)("test")
    for name, messages in tasks.messages.items():
        talk = json.loads((DATA / f"{name}.json").read_text())
        numbers = [n for n in range(1, 36) if talk.get(f"session_{n}")]
        said = [turn for n in numbers for turn in talk[f"session_{n}"]]
        lines = [line for message in messages for line in message.split("\n")[1:]]
        want = [f"{turn['speaker']}: {' '.join(turn['text'].split())}" for turn in said]
        assert lines == want
        assert turns or len(messages) == len(numbers)


@needs_data
def test_all_but_four_questions_have_supporting_facts_that_were_said():
    tasks = LoCoMoTasks(data_dir=str(DATA))("test")
    without = 0
    for task in tasks:
        told = "\n".join(task.messages)
        without += not task.supporting_facts
        for fact in task.supporting_facts:
            speaker, _, rest = fact.partition(" said on ")
            day, _, text = rest.partition(": ")
            assert f"\n{speaker}: {text.partition(' (with a photo')[0]}" in told
            assert day in told
    assert without == 4
