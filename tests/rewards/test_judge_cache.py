"""The cache of scores: kept, keyed by all that they depend on, and data that nothing executes."""

import dataclasses
import json
import os
import pickle
import sqlite3

import pytest
from absl import logging

from agemem_jax.rewards import judge_prompts
from agemem_jax.rewards.judge_cache import FILE_NAME, ScoreCache
from agemem_jax.rewards.llm_judge import JudgeStats, LLMJudge
from tests.rewards.endpoint import RIGHT, Endpoint, always, judge_at

executed = []


class Payload:
    """What an attacker would have unpickled."""

    def __reduce__(self):
        return executed.append, ("executed",)


@pytest.fixture(autouse=True)
def nothing_was_executed(monkeypatch):
    monkeypatch.setattr(logging, "warning", lambda *arguments: None)
    yield
    assert not executed


def test_scores_are_found_again(tmp_path):
    ScoreCache(tmp_path / "new").write({"a": 0.5, "b": 1.0})
    ScoreCache(tmp_path / "new").write({"a": 0.25})
    cache = ScoreCache(tmp_path / "new")
    assert [cache.read(key) for key in "abc"] == [0.25, 1.0, None]


def test_without_a_folder_nothing_is_kept():
    cache = ScoreCache(None)
    cache.write({"a": 0.5})
    assert cache.read("a") is None


ENTRIES = [
    pickle.dumps(Payload()),
    pickle.dumps({"key": "KEY", "score": Payload()}, protocol=0),
    b'{"key": "KEY", "score": "' + pickle.dumps(Payload(), protocol=0).hex().encode() + b'"}',
    b'{"key": "KEY", "score": "__import__(\'os\')"}',
    b'{"key": "KEY", "score": 1.5}',
    b'{"key": "KEY", "score": -0.1}',
    b'{"key": "KEY", "score": NaN}',
    b'{"key": "KEY", "score": true}',
    b'{"key": "KEY", "score": ' + b"9" * 5000 + b"}",
    b'{"key": "KEY", "score": 0.',
    b'{"key": ["KEY"], "score": 0.5}',
    b'["KEY", 0.5]',
    b"[" * 100_000,
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("entry", ENTRIES, ids=range(len(ENTRIES)))
def test_an_entry_that_is_no_score_is_a_miss_and_runs_nothing(tmp_path, entry):
    with Endpoint(always('{"score": 0.5}')) as endpoint:
        judge = judge_at(endpoint.url, cache_dir=str(tmp_path))
        key = judge._cache_key(judge_prompts.answer_prompt(RIGHT))
        good = json.dumps({"key": "other", "score": 0.75}).encode()
        entry = entry.replace(b"KEY", key.encode())
        (tmp_path / FILE_NAME).write_bytes(good + b"\n" + entry + b"\n" + good)
        assert judge.score_answers([RIGHT]) == [0.5]
        assert judge.stats == JudgeStats(scores=1, calls=1)
        again = judge_at(endpoint.url, cache_dir=str(tmp_path))
        assert again.score_answers([RIGHT]) == [0.5]
        assert again.stats == JudgeStats(scores=1, cache_hits=1)
    assert ScoreCache(tmp_path).read("other") == 0.75


def test_a_cache_of_an_earlier_version_is_not_opened(tmp_path):
    """It was a database whose values, keys and settings were unpickled, by their `mode`."""
    with Endpoint(always('{"score": 0.5}')) as endpoint:
        judge = judge_at(endpoint.url, cache_dir=str(tmp_path))
        key = judge._cache_key(judge_prompts.answer_prompt(RIGHT))
        payload = pickle.dumps(Payload())
        (tmp_path / "payload.val").write_bytes(payload)
        with sqlite3.connect(tmp_path / "cache.db") as database:
            database.execute(
                "CREATE TABLE Cache (rowid INTEGER PRIMARY KEY, key BLOB, raw INTEGER, "
                "store_time REAL, expire_time REAL, access_time REAL, access_count INTEGER, "
                "tag BLOB, size INTEGER, mode INTEGER, filename TEXT, value BLOB)"
            )
            database.execute("CREATE TABLE Settings (key TEXT UNIQUE, value)")
            database.execute("INSERT INTO Settings VALUES ('disk_min_file_size', ?)", (payload,))
            for mode in range(5):
                for name, value in ((None, payload), ("payload.val", None)):
                    for raw in (0, 1):
                        database.execute(
                            "INSERT INTO Cache (key, raw, mode, filename, value) "
                            "VALUES (?, ?, ?, ?, ?)",
                            (key if raw else payload, raw, mode, name, value),
                        )
        database.close()
        before = (tmp_path / "cache.db").read_bytes()
        assert judge.score_answers([RIGHT]) == [0.5]
        assert judge.stats == JudgeStats(scores=1, calls=1)
    assert (tmp_path / "cache.db").read_bytes() == before


def test_a_line_that_a_crash_cut_off_does_not_take_the_next_one_along(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b'{"key": "a", "sco')
    ScoreCache(tmp_path).write({"b": 0.5})
    assert ScoreCache(tmp_path).read("b") == 0.5


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
def test_what_is_no_file_is_done_without(tmp_path, kind):
    path = tmp_path / FILE_NAME
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "gone" / "away")
    cache = ScoreCache(tmp_path)
    assert cache.read("a") is None
    cache.write({"a": 0.5})
    assert cache.read("a") == 0.5  # in this process


CHANGES = [
    {"model": "n"},
    {"temperature": 0.5},
    {"temperature": None},
    {"max_tokens": 2048},
    {"max_tokens_parameter": "max_completion_tokens"},
    {"reply_format": "text"},
    {"base_url": "http://elsewhere/v1"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_score_belongs_to_its_endpoint_model_and_settings(change):
    config = judge_at("http://here/v1").config
    other = LLMJudge(dataclasses.replace(config, **change))
    assert LLMJudge(config)._cache_key("prompt") != other._cache_key("prompt")


def test_a_score_does_not_depend_on_how_patiently_it_was_asked_for():
    judge = judge_at("http://here/v1")
    patient = judge_at("http://here/v1/", timeout=50.0, max_concurrency=1, max_attempts=9)
    assert judge._cache_key("prompt") == patient._cache_key("prompt")
    assert judge._cache_key("prompt") != judge._cache_key("another prompt")
