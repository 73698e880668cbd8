"""The LLM judge against a real HTTP server that behaves well, oddly and not at all."""

import asyncio
import dataclasses
import threading
import time

import pytest
from absl import logging

from agemem_jax.rewards.judges import EntriesItem, OfflineJudge, StorageItem
from agemem_jax.rewards.llm_judge import JudgeStats, LLMJudge
from tests.rewards.builders import BASED, STALE, TASK, WORKS
from tests.rewards.endpoint import RIGHT, SECRET, WRONG, Endpoint, always, judge_at


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("AGEMEM_JUDGE_API_KEY", SECRET)


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    return lines


def test_replies_become_scores_in_the_order_of_the_items():
    def behave(number, body):
        return 200, "Score: 0.75" if "<<<Oslo>>>" in body["messages"][0]["content"] else "1/4"

    with Endpoint(behave) as endpoint:
        judge = judge_at(endpoint.url)
        assert judge.score_answers([RIGHT, WRONG, RIGHT]) == [0.25, 0.75, 0.25]
    assert judge.stats == JudgeStats(scores=3, calls=2)
    headers, body = endpoint.requests[0]
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body["model"] == "m" and body["temperature"] == 0.0


def test_an_endpoint_without_keys_is_not_sent_that_of_another_service(monkeypatch):
    monkeypatch.delenv("AGEMEM_JUDGE_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    with Endpoint(always("0.5")) as endpoint:
        assert judge_at(endpoint.url).score_answers([RIGHT]) == [0.5]
    assert endpoint.requests[0][0]["Authorization"] == "Bearer none"


def test_every_kind_of_question_reaches_the_model():
    with Endpoint(always("Score: 0.3")) as endpoint:
        judge = judge_at(endpoint.url)
        facts = (TASK.supporting_facts, TASK.stale_facts)
        several = EntriesItem(TASK.query, TASK.answer, (WORKS, BASED), *facts)
        single = StorageItem(TASK.query, TASK.answer, WORKS, *facts)
        assert judge.score_storage([single]) == [0.3]
        assert judge.score_relevance([several]) == [0.3]
        assert judge.score_memories([several]) == [0.3]
    asked = [body["messages"][0]["content"] for _, body in endpoint.requests]
    assert len(set(asked)) == 3
    assert all(STALE in prompt and WORKS in prompt for prompt in asked)


def test_a_reply_without_a_score_is_replaced_by_the_offline_score_and_logged(log):
    with Endpoint(always("Well, it depends.")) as endpoint:
        judge = judge_at(endpoint.url)
        assert judge.score_answers([RIGHT, WRONG]) == OfflineJudge().score_answers([RIGHT, WRONG])
    assert judge.stats == JudgeStats(scores=2, calls=2, unknown=2, fallbacks=2)
    assert any("states no score: 'Well, it depends.'" in line for line in log)
    assert any("scored 0 of 2 items" in line for line in log)


def test_a_reply_without_text_is_unknown():
    with Endpoint(always(None)) as endpoint:
        judge = judge_at(endpoint.url)
        assert judge.score_answers([RIGHT]) == [1.0]
    assert judge.stats.unknown == 1


def test_passing_server_errors_are_retried():
    def behave(number, body):
        return (500, "") if number < 3 else (200, "0.5")

    with Endpoint(behave) as endpoint:
        judge = judge_at(endpoint.url)
        assert judge.score_answers([RIGHT]) == [0.5]
    assert len(endpoint.requests) == 3
    assert judge.stats == JudgeStats(scores=1, calls=1)


def test_lasting_server_errors_end_in_the_offline_score(log):
    with Endpoint(always("", status=500)) as endpoint:
        judge = judge_at(endpoint.url)
        assert judge.score_answers([RIGHT, WRONG]) == [1.0, 0.0]
    assert len(endpoint.requests) == 6
    assert judge.stats == JudgeStats(scores=2, calls=2, failures=2, fallbacks=2)
    assert any("answered with status 500" in line for line in log)


def test_a_refusal_is_not_retried():
    with Endpoint(always("", status=401)) as endpoint:
        judge = judge_at(endpoint.url)
        assert judge.score_answers([RIGHT]) == [1.0]
    assert len(endpoint.requests) == 1
    assert judge.stats == JudgeStats(scores=1, calls=1, failures=1, fallbacks=1)


def test_a_hanging_endpoint_is_left_after_the_timeout():
    release = threading.Event()

    def behave(number, body):
        release.wait(20)
        return 200, "0.5"

    with Endpoint(behave) as endpoint:
        judge = judge_at(endpoint.url, timeout=0.2, max_attempts=2)
        begun = time.monotonic()
        assert judge.score_answers([RIGHT]) == [1.0]
        assert time.monotonic() - begun < 10
        release.set()
    assert len(endpoint.requests) == 2
    assert judge.stats == JudgeStats(scores=1, calls=1, failures=1, fallbacks=1)


def test_an_endpoint_that_is_down_costs_no_more_than_a_few_requests(log):
    with Endpoint(always("1")) as endpoint:
        url = endpoint.url
    judge = judge_at(url, max_attempts=1, give_up_after=2, max_concurrency=1)
    items = [dataclasses.replace(WRONG, answer=f"Rome {n}") for n in range(6)]
    assert judge.score_answers(items) == OfflineJudge().score_answers(items)
    assert judge.stats == JudgeStats(scores=6, calls=2, failures=6, fallbacks=6)
    assert any("cannot be reached" in line for line in log)


def test_failures_between_successes_do_not_end_the_batch():
    def behave(number, body):
        return (400, "") if number % 2 else (200, "0.5")

    with Endpoint(behave) as endpoint:
        judge = judge_at(endpoint.url, give_up_after=2, max_concurrency=1)
        items = [dataclasses.replace(WRONG, answer=str(n)) for n in range(6)]
        assert judge.score_answers(items) == [0.0, 0.5] * 3
    assert judge.stats == JudgeStats(scores=6, calls=6, failures=3, fallbacks=3)


def test_requests_under_way_are_bounded():
    def behave(number, body):
        time.sleep(0.05)
        return 200, "0.5"

    with Endpoint(behave) as endpoint:
        judge = judge_at(endpoint.url, max_concurrency=3)
        judge.score_answers([dataclasses.replace(WRONG, answer=str(n)) for n in range(12)])
    assert len(endpoint.requests) == 12
    assert 2 <= endpoint.most_at_once <= 3


def test_known_prompts_are_answered_from_the_cache_of_an_earlier_run(tmp_path):
    with Endpoint(always("0.5")) as endpoint:
        judge_at(endpoint.url, cache_dir=str(tmp_path)).score_answers([RIGHT])
        second = judge_at(endpoint.url, cache_dir=str(tmp_path))
        assert second.score_answers([RIGHT, WRONG]) == [0.5, 0.5]
        assert second.stats == JudgeStats(scores=2, calls=1, cache_hits=1)
        other = dataclasses.replace(second.config, model="another")
        third = LLMJudge(other)
        third.score_answers([RIGHT])
        assert third.stats == JudgeStats(scores=1, calls=1)


def test_unknown_replies_are_not_kept_in_the_cache(tmp_path):
    with Endpoint(lambda number, body: (200, "hm" if number == 1 else "0.5")) as endpoint:
        judge = judge_at(endpoint.url, cache_dir=str(tmp_path))
        assert [judge.score_answers([RIGHT]), judge.score_answers([RIGHT])] == [[1.0], [0.5]]


def test_an_unusable_cache_is_reported_and_done_without(tmp_path, log):
    (tmp_path / "file").write_text("not a folder")
    with Endpoint(always("0.5")) as endpoint:
        judge = judge_at(endpoint.url, cache_dir=str(tmp_path / "file"))
        assert judge.score_answers([RIGHT]) == [0.5]
    assert any("cannot be written" in line for line in log)


def test_the_key_reaches_no_log_config_attribute_or_cache(tmp_path, log):
    def behave(number, body):
        return (400, "") if number == 1 else (200, "0.5")

    with Endpoint(behave) as endpoint:
        judge = judge_at(endpoint.url, cache_dir=str(tmp_path), max_concurrency=1)
        judge.score_answers([RIGHT, WRONG])
    assert len(log) == 2
    shown = "".join(log) + repr(judge) + repr(vars(judge)) + repr(dataclasses.asdict(judge.config))
    assert SECRET not in shown
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert kept and SECRET.encode() not in kept


def test_the_judge_works_inside_a_running_event_loop():
    async def serve(judge):
        return judge.score_answers([RIGHT])

    with Endpoint(always("0.5")) as endpoint:
        assert asyncio.run(serve(judge_at(endpoint.url))) == [0.5]


def test_no_items_need_no_endpoint():
    assert judge_at("http://127.0.0.1:9/v1").score_answers([]) == []


def test_a_reply_that_the_endpoint_cut_off_is_unknown_and_not_cached(tmp_path, log):
    def behave(number, body):
        return (200, "Score: 0.5, or rather", "length") if number == 1 else (200, "0.25")

    with Endpoint(behave) as endpoint:
        judge = judge_at(endpoint.url, cache_dir=str(tmp_path))
        assert judge.score_answers([RIGHT]) == [1.0]
        assert judge.stats == JudgeStats(scores=1, calls=1, unknown=1, fallbacks=1)
        assert judge.score_answers([RIGHT]) == [0.25]
    assert any("states no score and was cut off" in line for line in log)


def test_failures_are_not_kept_in_the_cache(tmp_path):
    with Endpoint(lambda number, body: (400, "no") if number == 1 else (200, "0.5")) as endpoint:
        judge = judge_at(endpoint.url, cache_dir=str(tmp_path))
        assert [judge.score_answers([RIGHT]), judge.score_answers([RIGHT])] == [[1.0], [0.5]]
    assert judge.stats == JudgeStats(scores=2, calls=2, failures=1, fallbacks=1)


def test_a_refusal_is_logged_once_and_counted_each_time(log):
    with Endpoint(always("'temperature' is not supported", 400)) as endpoint:
        judge = judge_at(endpoint.url, give_up_after=100)
        items = [dataclasses.replace(WRONG, answer=str(n)) for n in range(5)]
        judge.score_answers(items)
    assert len([line for line in log if "set judge.temperature to None" in line]) == 1
    assert judge.stats == JudgeStats(scores=5, calls=5, failures=5, fallbacks=5)


def test_every_score_after_an_endpoint_died_is_counted_as_a_fallback():
    """Also those that were given up unasked, and each of several items with one prompt."""
    with Endpoint(lambda number, body: (200, "0.5") if number <= 2 else (500, "")) as endpoint:
        judge = judge_at(endpoint.url, max_attempts=1, give_up_after=2, max_concurrency=1)
        items = [dataclasses.replace(WRONG, answer=str(n)) for n in range(6)]
        assert judge.score_answers([*items, items[5]]) == [0.5, 0.5, 0, 0, 0, 0, 0]
    assert judge.stats == JudgeStats(scores=7, calls=4, failures=4, fallbacks=5)


def test_counts_are_taken_once():
    with Endpoint(always("0.5")) as endpoint:
        judge = judge_at(endpoint.url)
        judge.score_answers([RIGHT, WRONG])
        first = judge.take_counts()
        judge.score_answers([RIGHT])
        second = judge.take_counts()
    assert (first["scores"], first["calls"]) == (2, 2)
    assert (second["scores"], second["calls"]) == (1, 1)
    assert not any(judge.take_counts().values())
    assert OfflineJudge().take_counts() == {}


def test_a_judge_that_was_told_to_stop_asks_nobody_and_counts_what_it_did_not_ask(tmp_path):
    with Endpoint(always("0.5")) as endpoint:
        judge = judge_at(endpoint.url, cache_dir=str(tmp_path))
        judge.score_answers([RIGHT])
        judge.stop_asking()
        assert judge.score_answers([RIGHT, WRONG]) == OfflineJudge().score_answers([RIGHT, WRONG])
    assert judge.stats == JudgeStats(scores=3, calls=1, failures=2, fallbacks=2)


def test_a_judge_that_gives_a_right_answer_nothing_is_warned_about(log):
    with Endpoint(always('{"score": 0.0}')) as endpoint:
        assert judge_at(endpoint.url).try_endpoint() is None
    assert any("gives a right answer 0.00" in line for line in log)


def test_what_is_asked_ahead_is_asked_once_and_scored_the_same():
    arrived = threading.Barrier(3)

    def behave(number, body):
        arrived.wait(20)  # both questions and this test: nobody has asked for a score yet
        return 200, "0.75" if "<<<Oslo>>>" in body["messages"][0]["content"] else "0.25"

    with Endpoint(behave) as endpoint:
        judge = judge_at(endpoint.url, max_concurrency=2)
        judge.ask_ahead(answers=[RIGHT])
        judge.ask_ahead(answers=[RIGHT, WRONG])
        arrived.wait(20)
        assert judge.score_answers([WRONG, RIGHT]) == [0.75, 0.25]
    assert judge.stats == JudgeStats(scores=2, calls=2)
    assert not [t for t in threading.enumerate() if t.name == "judge"]


def test_what_fails_ahead_is_counted_when_its_score_is_asked_for():
    with Endpoint(always("no", 400)) as endpoint:
        judge = judge_at(endpoint.url, give_up_after=1, max_concurrency=1)
        judge.ask_ahead(answers=[RIGHT, WRONG])
        assert judge.score_answers([RIGHT, WRONG]) == OfflineJudge().score_answers([RIGHT, WRONG])
    assert judge.stats == JudgeStats(scores=2, calls=1, failures=2, fallbacks=2)


def test_what_the_cache_knows_is_not_asked_ahead(tmp_path):
    with Endpoint(always("0.5")) as endpoint:
        for hits in (0, 1):
            judge = judge_at(endpoint.url, cache_dir=str(tmp_path))
            judge.ask_ahead(answers=[RIGHT])
            assert judge.score_answers([RIGHT]) == [0.5]
            assert judge.stats == JudgeStats(scores=1, calls=1 - hits, cache_hits=hits)
        judge.stop_asking()
        judge.ask_ahead(answers=[WRONG])
    assert len(endpoint.requests) == 1
