"""Measures and their confidence intervals."""

import dataclasses

import numpy as np
import pytest

from agemem_jax.evaluation.metrics import bootstrap, measure
from agemem_jax.protocol.tools import TOOL_NAMES
from agemem_jax.rewards.total import Reward
from tests.rewards.builders import add, answer, retrieve, trajectory


def reward(task: float, memory: float = 0.5) -> Reward:
    parts = dict.fromkeys((field.name for field in dataclasses.fields(Reward)), 0.0)
    return Reward(**parts | {"task": task, "memory": memory})


def test_the_interval_of_a_share_is_that_of_the_normal_approximation():
    values = np.r_[np.ones(120), np.zeros(280)]
    estimate = bootstrap(values)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert estimate.mean == pytest.approx(0.3)
    assert estimate.low == pytest.approx(0.3 - half, abs=0.005)
    assert estimate.high == pytest.approx(0.3 + half, abs=0.005)


def test_an_interval_narrows_with_the_root_of_the_number_of_tasks():
    rng = np.random.default_rng(0)
    widths = []
    for count in (100, 1600):
        estimate = bootstrap(rng.normal(size=count), samples=2000)
        widths.append(estimate.high - estimate.low)
    assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.15)


def test_values_that_are_all_equal_have_an_interval_of_no_width():
    estimate = bootstrap(np.full(7, 0.25), samples=50)
    assert (estimate.mean, estimate.low, estimate.high) == (0.25, 0.25, 0.25)
    assert estimate.percent() == "25.0 [25.0, 25.0]"


def test_measures_are_means_over_tasks_and_calls_are_counted_by_tool():
    stored = (add("mem_1", "one"), add("mem_2", "two"))
    failed = add("mem_1", "one", ok=False)
    played = [trajectory(*stored, retrieve("one"), answer()), trajectory(failed)]
    played[0].prompt_tokens, played[1].prompt_tokens = [100, 300], [50]
    measures = measure(played, [reward(1.0), reward(-0.5, memory=0.0)], [0.75, 0.25], samples=100)
    assert measures.tasks == 2
    assert measures.j.mean == 0.5  # a penalised task counts 0, not less
    assert measures.mq.mean == 0.5
    assert measures.r_memory.mean == 0.25
    assert measures.tn.mean == 125.0
    assert measures.tc == {name: 0.0 for name in TOOL_NAMES} | {
        "Add_memory": 1.5, "Retrieve_memory": 0.5,
    }  # fmt: skip
    assert measures.failed_calls == 0.25
