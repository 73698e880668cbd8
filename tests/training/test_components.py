"""The judge that a run begins with, is refused for, or begins without."""

import copy
import dataclasses

import pytest
from absl import logging

from agemem_jax.parallel import processes
from agemem_jax.rewards.judge_config import JudgeConfig
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.tasks.task import EnvironmentGoal, Task
from agemem_jax.training import components
from agemem_jax.training.configuration import run_config
from tests.rewards.endpoint import RIGHT, WRONG, Endpoint, always


def config_of(url, **options):
    judge = JudgeConfig(
        kind="llm",
        base_url=url,
        model="m",
        max_attempts=1,
        timeout=5.0,
        first_pause=0.01,
        **options,
    )
    return dataclasses.replace(run_config.RunConfig(), judge=judge)


def test_an_endpoint_that_works_is_tried_once_and_then_asked(tmp_path):
    with Endpoint(always('{"score": 0.75}')) as endpoint:
        judge = components.build_judge(config_of(endpoint.url), tmp_path)
        assert len(endpoint.requests) == 1
        assert judge.score_answers([WRONG]) == [0.75]
    assert judge.take_counts()["calls"] == 1
    assert [path.name for path in (tmp_path / "judge_cache").iterdir()] == ["scores.jsonl"]


def test_an_offline_judge_asks_nobody(tmp_path):
    config = config_of("http://127.0.0.1:9/v1")
    judge = dataclasses.replace(config.judge, kind="offline")
    built = components.build_judge(dataclasses.replace(config, judge=judge), tmp_path)
    assert isinstance(built, OfflineJudge)


def test_a_run_whose_judge_refuses_does_not_begin(tmp_path):
    with Endpoint(always("'temperature' is not supported", 400)) as endpoint:
        with pytest.raises(ConnectionError) as caught:
            components.build_judge(config_of(endpoint.url), tmp_path)
    assert "set judge.temperature to None, which sends none; judge.required=False" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_a_run_that_can_do_without_is_warned_once_and_counts_every_score(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    with Endpoint(always("down", 500)) as endpoint:
        config = config_of(endpoint.url, required=False)
        judge = components.build_judge(config, tmp_path)
        assert len([line for line in lines if "EVERY score" in line]) == 1
        assert judge.score_answers([RIGHT, WRONG]) == [1.0, 0.0]
        assert len(endpoint.requests) == 1
    assert judge.take_counts() == {
        "scores": 2, "calls": 0, "cache_hits": 0, "unknown": 0, "failures": 2, "fallbacks": 2,
    }  # fmt: skip


@pytest.mark.parametrize("required", [True, False])
def test_of_several_processes_one_tries_and_all_do_the_same(tmp_path, monkeypatch, required):
    monkeypatch.setattr(processes, "is_primary", lambda: False)
    monkeypatch.setattr(processes, "gather", lambda value: ["The judge fails", value])
    with Endpoint(always('{"score": 1.0}')) as endpoint:
        config = config_of(endpoint.url, required=required)
        if required:
            with pytest.raises(ConnectionError, match="The judge fails; judge.required=False"):
                components.build_judge(config, tmp_path)
        else:
            judge = components.build_judge(config, tmp_path)
            assert judge.score_answers([WRONG]) == [0.0]
        assert not endpoint.requests


def test_tasks_of_the_same_names_that_differ_are_not_taken_for_each_other():
    one = [Task("t", EnvironmentGoal("babyai", {"subgoals": ()}))]
    other = [Task("t", EnvironmentGoal("babyai", {"subgoals": ("a red ball",)}))]
    first, second = components.identify_tasks(one), components.identify_tasks(other)
    assert first["digest"] == second["digest"] and first["content"] != second["content"]
    assert first == components.identify_tasks(copy.deepcopy(one))
