"""Measures and their confidence intervals."""

import numpy as np
import pytest

from agemem_jax.evaluation.evaluate import split_failed
from agemem_jax.evaluation.metrics import measure
from agemem_jax.protocol.events import (
    DroppedMessagesEvent,
    FormatEvent,
    OverflowEvent,
    RetrievalEvent,
)
from agemem_jax.rewards.estimates import Estimate, bootstrap, bootstrap_together
from agemem_jax.rewards.total import Reward
from agemem_jax.rollout.tools.registry import TOOL_NAMES
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.training.monitoring.summary import summarise
from tests.rewards.builders import TASK, add, answer, retrieve, tool, trajectory


def reward(task: float, memory: float = 0.5) -> Reward:
    components = {"task": task, "context": 0.0, "memory": memory, "penalty": 0.0}
    return Reward(0.0, components, {})


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
    assert measures["j"].mean == 0.5  # a penalised task counts 0, not less
    assert measures["mq"].mean == 0.5
    assert measures["r_memory"].mean == 0.25
    assert measures["tn"].mean == 125.0
    assert measures.tc == {name: 0.0 for name in TOOL_NAMES} | {
        "Add_memory": 1.5, "Retrieve_memory": 0.5,
    }  # fmt: skip
    assert measures.failed_calls == 0.25


def test_nothing_to_average_is_nothing_and_not_a_crash():
    assert bootstrap(np.zeros(0), samples=10) == Estimate(0.0, 0.0, 0.0)


def test_training_and_evaluation_count_the_same_calls_under_the_same_names():
    shown = RetrievalEvent(1, 0, "Ana", ())
    played = [
        trajectory(add("mem_1", "one"), add("mem_2", "two", ok=False), shown, retrieve("one")),
        trajectory(tool("Fly", ok=False), DroppedMessagesEvent(1, 0, 3), shown),
    ]
    rewards = [reward(1.0), reward(0.0)]
    measures = measure(played, rewards, [0.0, 0.0], samples=10)
    metrics = summarise(played, rewards)
    assert {name: metrics[f"tc/{name}"] for name in TOOL_NAMES} == measures.tc
    assert measures.tc["Add_memory"] == 1.0, "tried, whether or not it worked"
    assert measures.tc["Retrieve_memory"] == 0.5, "what the episode shows unasked is no call"
    assert measures.failed_calls == metrics["failed_calls"] == 0.5
    assert measures.dropped_messages == metrics["dropped_messages"] == 1.5


def test_failed_episodes_are_counted_and_left_out_of_every_mean(caplog):
    played = [
        trajectory(answer()),
        Trajectory.failed(TASK, "An episode of task t failed: env crashed."),
        trajectory(add("mem_1", "one")),
    ]
    intact, faults = split_failed(played, "AgeMem")
    assert intact == [played[0], played[2]]
    assert "Left out of AgeMem: An episode of task t failed: env crashed." in caplog.text
    measures = measure(intact, [reward(1.0), reward(0.5)], [1.0, 0.0], 10, len(faults))
    assert (measures.tasks, measures.failed) == (2, 1)
    assert (measures["j"].mean, measures["mq"].mean, measures.tc["Add_memory"]) == (0.75, 0.5, 0.5)


def test_an_evaluation_of_which_every_episode_failed_says_so():
    played = [Trajectory.failed(TASK, f"An episode of task t failed: {n}.") for n in range(3)]
    with pytest.raises(ValueError, match="All 3 episodes of AgeMem failed.*: 2."):
        split_failed(played, "AgeMem")
    with pytest.raises(ValueError, match="nothing to measure: .* and 3 failed"):
        measure([], [], [], 10, failed=3)


def test_columns_that_are_resampled_together_have_the_intervals_of_each_alone():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, 3))
    together = bootstrap_together(values, samples=300)
    for column, estimate in enumerate(together):
        drawn = np.random.default_rng(0)
        picks = [drawn.integers(40, size=40) for _ in range(300)]
        means = [values[pick, column].mean() for pick in picks]
        assert estimate.mean == pytest.approx(values[:, column].mean())
        assert (estimate.low, estimate.high) == pytest.approx(np.percentile(means, [2.5, 97.5]))
        assert vars(bootstrap(values[:, column], samples=300)) == pytest.approx(vars(estimate))


def parted(**parts) -> Reward:
    return Reward(0.0, {"task": 1.0, "context": 0.5}, parts)


def test_every_part_has_a_mean_over_the_tasks_where_it_was_at_stake():
    played = [trajectory(answer()) for _ in range(4)]
    rewards = [parted(kept=1.0, tried=t, never=None) for t in (None, 0.5, 1.0, None)]
    measures = measure(played, rewards, [0.0] * 4, samples=50)
    assert (measures["part_kept"].mean, measures["part_tried"].mean) == (1.0, 0.75)
    assert "part_never" not in measures.estimates
    assert (measures.counts["part_tried"], measures.counts["part_never"]) == (2, 0)
    assert "part_kept" not in measures.counts
    metrics = summarise(played, rewards)
    assert (metrics["reward_kept"], metrics["reward_tried"]) == (1.0, 0.75)
    assert "reward_never" not in metrics, "a mean of nothing is not 0"
    shares = {name: value for name, value in metrics.items() if name.startswith("at_stake/")}
    assert shares == {"at_stake/tried": 0.5, "at_stake/never": 0.0}


def test_how_full_contexts_were_and_what_edits_did_is_measured_in_both_places():
    shrunk = tool("Summary_context", stage=2, tokens_before=90, tokens_after=40)
    grown = tool("Summary_context", stage=2, tokens_before=40, tokens_after=45)
    nothing = tool("Filter_context", stage=2, changed=False, tokens_before=45, tokens_after=45)
    refused = tool("Filter_context", stage=2, ok=False, tokens_before=45, tokens_after=45)
    first = trajectory(shrunk, grown, nothing, refused, answer())
    second = trajectory(FormatEvent(1, 0, "No tags."), OverflowEvent(2, 1, 150))
    first.prompt_tokens, second.prompt_tokens = [40, 80], [90]
    first.max_context_tokens = second.max_context_tokens = 100
    rewards = [reward(1.0), reward(0.0)]
    measures = measure([first, second], rewards, [0.0, 0.0], samples=50)
    metrics = summarise([first, second], rewards)
    for name, value in {
        "context_share": (0.6 + 1.2) / 2, "context_share_max": (0.8 + 1.5) / 2,
        "idle_edits": 2 / 3, "format_errors": 0.5,
    }.items():  # fmt: skip
        assert measures[name].mean == pytest.approx(value), name
        assert metrics[name] == pytest.approx(value), name
    assert measures.counts["idle_edits"] == 1
    assert measures["tc_Summary_context"].mean == measures.tc["Summary_context"] == 1.0
    assert measures["failed_share"].mean == measures.failed_calls == 0.25
