"""Baselines that keep the history themselves, played by hand-written responses."""

import dataclasses
import functools
import types

import jax
import numpy as np
import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.methods.exprag import ExpRAG
from agemem_jax.methods.file_search import FileSearch
from agemem_jax.methods.history_file import HistoryFile
from agemem_jax.methods.registry import find_method
from agemem_jax.methods.resum import ReSum
from agemem_jax.models import loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.protocol.events import OverflowEvent, RetrievalEvent, UnaskedEditEvent
from agemem_jax.protocol.messages import Kind
from agemem_jax.rollout import trajectory_json
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.tasks.multihop import MultihopTasks
from agemem_jax.tasks.task import EnvironmentGoal, Question, Task
from agemem_jax.training.curriculum import phases
from agemem_jax.training.monitoring.throughput import Stopwatch
from agemem_jax.training.trainer import Trainer
from tests.rollout.scripted import NOTED, Replies, answer, call, tools
from tests.training.small_job import small_config

METHODS = ("full_context", "file_search", "archive_turns", "exprag", "resum")
TASK = Task(
    task_id="t",
    goal=Question("Where does Ana live?", "Oslo"),
    messages=(
        "By the way, Ana lives in Paris.", "It rains.", "Ana moved to Oslo.", "Good lunch.",
        "Bo has a dog.",
    ),
    distractors=("Cy lives in Bergen.",),
    supporting_facts=("Ana lives in Oslo.",),
    data_set="multihop",
)  # fmt: skip
CONFIG = EpisodeConfig(max_context_tokens=900, max_rounds=2, prompt_style="compact")


@pytest.fixture(scope="module")
def chat():
    return ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)


@pytest.fixture(scope="module")
def store():
    return MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=1, entries=2)


@pytest.fixture
def player(chat, store):
    """What methods see of a player."""
    return types.SimpleNamespace(
        chat=chat, store=store, past=functools.cache(lambda: MultihopTasks(size=40)("train")),
        rules=lambda config, start=None: EpisodeRules(config, chat, start=start),
    )  # fmt: skip


def play(player, method, *replies, task=TASK, config=CONFIG):
    """The trajectory and the requests, of one episode by a method of that name or itself."""
    rules = find_method(method).rules(player, config)
    backend = Replies(player.chat, *replies)
    (played,) = run_episodes([Rollout(task, jax.random.key(0))], rules, player.store, backend)
    assert [r.prompt[: len(rules.shared_prefix)] for r in backend.requests if r.purpose == "act"]
    return played, backend.requests


def edits(trajectory):
    return [event for event in trajectory.events if isinstance(event, UnaskedEditEvent)]


def texts(request):
    return [message.text for message in request.context.messages[1:]]


def test_in_full_context_all_that_was_said_is_still_there_at_the_question(player):
    played, requests = play(player, "full_context", NOTED, answer("Oslo"))
    assert [r.stage for r in requests] == [2, 3], "Stage 1 costs no generation"
    assert texts(requests[1])[:6] == [*TASK.messages, TASK.distractors[0]]
    assert played.outcome.answer == "Oslo" and not edits(played) and played.tools == ()


def test_full_context_drops_the_oldest_messages_where_the_budget_ends_and_says_so(player):
    told = tuple(f"Number {n} of what was said about Ana, who lives in Oslo." for n in range(16))
    task = dataclasses.replace(TASK, messages=told)
    config = dataclasses.replace(CONFIG, max_context_tokens=240)
    played, requests = play(player, "full_context", NOTED, answer("Oslo"), config=config, task=task)
    assert all(len(r.prompt) <= 240 for r in requests)
    gone = [text for event in edits(played) for text in event.removed]
    assert gone == list(told[: len(gone)]) and 0 < len(gone) < 16
    assert texts(requests[1])[0] == told[len(gone)] and "Question" in texts(requests[1])[-1]
    assert {event.edit for event in edits(played)} == {"trimmed"}
    assert all(event.tokens_after < event.tokens_before for event in edits(played))
    assert trajectory_json.from_line(trajectory_json.to_line(0, played), {0: task})[
        1
    ].events == played.events  # fmt: skip


def test_file_search_shows_the_best_passages_and_searches_for_more(player):
    search = call("Search_history", query="dog", top_k=1)
    replies = (NOTED, search, call("Grep_history", text="ANA  moved"))
    config = dataclasses.replace(CONFIG, max_rounds=3)
    played, requests = play(player, "file_search", *replies, answer("Oslo"), config=config)
    assert list(played.memory.values()) == list(TASK.messages), "word for word"
    (first,) = [event for event in played.events if isinstance(event, RetrievalEvent)]
    best = [entry.content for entry in first.retrieved]
    assert best == [TASK.messages[2], TASK.messages[0]] and first.stage == 3, "those about Ana"
    assert all(passage in texts(requests[1])[-1] for passage in best)
    found = [[entry.content for entry in event.retrieved] for event in tools(played)]
    assert found == [[TASK.messages[4]], [TASK.messages[2]]]
    assert [event.effect for event in tools(played)] == ["retrieved"] * 2


def test_file_search_without_its_first_search_leaves_all_to_the_policy(player):
    _, requests = play(player, FileSearch(first=False), NOTED, answer("Oslo"))
    assert texts(requests[1])[-1] == "Question: Where does Ana live?"


def test_passages_are_ranked_as_the_formula_of_bm25_says():
    file = HistoryFile()
    said = ["a b c", "a a d e", "b d", "f", "a"]
    for message in said:
        file.write(message)
    documents = [message.split() for message in said]
    mean = np.mean([len(words) for words in documents])

    def score(words, query, k1=1.5, b=0.75):
        total = 0.0
        for word in query:
            having = sum(word in each for each in documents)
            idf = np.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            often = words.count(word)
            total += idf * often / (often + k1 * (1 - b + b * len(words) / mean))
        return total

    found = file.search("A d, zzz!", 9)
    wanted = {f"line_{n}": score(words, ["a", "d"]) for n, words in enumerate(documents, 1)}
    assert {e.memory_id: e.score for e in found} == pytest.approx(
        {name: value for name, value in wanted.items() if value}, rel=1e-5
    )
    assert [e.score for e in found] == sorted((e.score for e in found), reverse=True)
    assert file.search("nothing of it", 3) == () and HistoryFile().search("a", 3) == ()


def test_a_long_message_of_lines_becomes_passages_below_its_first_line():
    file, lines = HistoryFile(max_words=12), [f"Ana: word {n} and some more" for n in range(5)]
    file.write("\n".join(("On 8 May:", *lines)))
    passages = list(file.passages.values())
    assert len(passages) == 3 and all(p.startswith("On 8 May:\n") for p in passages)
    assert [line for p in passages for line in p.splitlines()[1:]] == lines


def test_four_turns_become_an_entry_and_leave_the_context(player):
    distractors = tuple(f"Person {n} lives in Bergen." for n in range(5))
    task = dataclasses.replace(TASK, messages=TASK.messages[:2], distractors=distractors)
    played, requests = play(player, "archive_turns", *[NOTED] * 5, answer("Oslo"), task=task)
    assert list(played.memory.values()) == [
        "\n".join(TASK.messages[:2]), "\n".join(distractors[:4]),
    ]  # fmt: skip
    assert texts(requests[4])[0] == distractors[4], "four turns are gone with their replies"
    assert "Ana lives in Paris" in texts(requests[5])[-1], "the nearest entries come with the goal"
    assert [(e.stage, e.edit, e.error) for e in edits(played)] == [
        (1, "archived", None), (2, "archived", None),
    ]  # fmt: skip
    assert played.tools == ("Retrieve_memory",)


def test_a_full_archive_takes_no_more_and_says_so(player):
    task = dataclasses.replace(TASK, messages=tuple(f"Ana has {n} cats." for n in range(12)))
    played, _ = play(player, "archive_turns", NOTED, answer("12"), task=task)
    assert [e.memory_id is None for e in edits(played)] == [False, False, True, True]
    assert "full (2 entries)" in edits(played)[2].error and len(played.memory) == 2


def test_what_resum_knows_of_stage_1_is_the_summary_that_it_wrote(player):
    played, requests = play(player, "resum", "Ana lives in Oslo now.", NOTED, answer("Oslo"))
    assert [(r.purpose, r.stage) for r in requests] == [("summary", 1), ("act", 2), ("act", 3)]
    assert all(message in requests[0].context.messages[-1].text for message in TASK.messages)
    assert texts(requests[2])[0] == "Summary: Ana lives in Oslo now."
    assert not any(message in "\n".join(texts(requests[2])) for message in TASK.messages)
    assert sum(int(s.action_mask.sum()) for s in played.segments) == sum(
        len(player.chat.encode(text)) + 1
        for text in ("Ana lives in Oslo now.", NOTED, answer("Oslo"))
    ), "the summary is trained like every other step"


def test_resum_summarises_before_the_budget_ends_as_often_as_it_takes(player):
    told = tuple(f"Number {n} of what was said about Ana, who lives in Oslo." for n in range(16))
    task = dataclasses.replace(TASK, messages=told, distractors=told[:8])
    config = dataclasses.replace(CONFIG, max_context_tokens=260)

    def reply(request):
        return "Ana: Oslo." if request.purpose == "summary" else answer("Oslo")

    played, requests = play(player, "resum", *[reply] * 80, config=config, task=task)
    assert all(len(request.prompt) <= 260 for request in requests)
    assert not any(isinstance(event, OverflowEvent) for event in played.events)
    written = [r for r in requests if r.purpose == "summary"]
    assert len(written) > 3 and {r.stage for r in written} >= {1, 2}
    assert any("Summary: Ana: Oslo." in r.context.messages[-1].text for r in written), "it goes on"
    removed = [text for event in edits(played) for text in event.removed]
    assert set(told) <= set(removed)
    with pytest.raises(ValueError, match="trigger is 1.5"):
        ReSum(trigger=1.5)


def test_exprag_shows_solved_tasks_of_the_training_split_alone(player):
    held_out = MultihopTasks(size=8)("test")[3]
    _, requests = play(player, "exprag", NOTED, NOTED, answer("x"), task=held_out)
    assert [r.stage for r in requests] == [2, 2, 3]
    shown = texts(requests[2])[-2].splitlines()
    train = [player.past()[index] for index in range(40)]
    assert shown[0] == "Earlier tasks:" and len(shown) == 4
    for line in shown[1:]:
        (task,) = [each for each in train if each.query in line]
        assert f"Answer: {task.answer}" in line and all(f in line for f in task.supporting_facts)
    form = held_out.query.split()[:4]
    assert shown[1].removeprefix("- Question: ").split()[:4] == form, "the nearest comes first"


def test_a_task_that_is_trained_on_is_no_example_for_itself(player):
    own = player.past()[5]
    _, requests = play(player, "exprag", NOTED, NOTED, answer("x"), task=own)
    assert own.query not in texts(requests[2])[-2]


def test_examples_take_half_of_the_budget_at_most(player):
    config = dataclasses.replace(CONFIG, max_context_tokens=400)
    _, requests = play(player, ExpRAG(examples=30), NOTED, answer("x"), config=config)
    message = requests[1].context.messages[-2]
    assert message.kind is Kind.TASK_MESSAGE and len(message.token_ids) <= 200
    assert 1 < len(message.text.splitlines()) < 12


def test_in_an_environment_examples_are_what_the_training_split_tells_of_past_episodes(player):
    lessons = {"red": "In Red, to go: turn left.", "blue": "In Blue, to go: turn right."}
    goal = EnvironmentGoal("x:Y", {}, "Level Blue.")
    past = [
        Task(name, goal, supporting_facts=(lesson, "General.")) for name, lesson in lessons.items()
    ]
    player.past = lambda: past
    rules = ExpRAG(examples=1).rules(player, CONFIG)
    task = Task("t", Question("Blue", ""), category="Blue")
    assert rules._start(rules, task)._examples[0][0].text == f"- {lessons['blue']}"


def test_exprag_needs_a_training_split_that_tells_something(player):
    player.past = None
    with pytest.raises(ValueError, match="needs a task source with a training split"):
        find_method("exprag").rules(player, CONFIG)
    player.past = lambda: [Task("t", EnvironmentGoal("x:Y"))]
    with pytest.raises(ValueError, match="found no example: the first 1 tasks"):
        find_method("exprag").rules(player, CONFIG)


@pytest.mark.parametrize("name", METHODS)
def test_each_has_a_row_before_and_one_after_reinforcement_learning(name):
    before, after = find_method(name), find_method(f"{name}+rl")
    assert not before.trained and after.trained
    assert after.title == f"{before.title} + RL" and after.method == before


def test_the_segments_of_every_baseline_train(tmp_path):
    config = small_config("tiny")
    trainer = Trainer(config, tmp_path)
    trainer.restore()
    phase = phases(config)[-1]
    tasks = [MultihopTasks(max_messages=3)("train")[index] for index in range(2)]
    rollouts = [Rollout(task, jax.random.key(0)) for task in tasks]
    for name in METHODS:
        trainer.method = find_method(name)
        played = trainer._play_together(phase, rollouts)
        sampled = sum(int(s.action_mask.sum()) for t in played for s in t.segments)
        before = jax.tree.map(np.asarray, trainer.state.trainable)
        trainer.state, outcome = trainer.learner.improve(
            trainer.state, played, np.array([1.0, -1.0]), trainer._rules(phase).shared_prefix,
            np.random.default_rng(0), Stopwatch(),
        )  # fmt: skip
        assert outcome.metrics()["target_tokens"] == sampled > 0, name
        assert outcome.metrics()["sampling_gap_max"] < 1e-3, "what is trained is what was sampled"
        changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, trainer.state.trainable)
        assert any(jax.tree.leaves(changed)), name
