"""Every reward component against plain Python written from the formulas of section 3.5."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_jax.protocol.events import (
    FormatEvent,
    OverflowEvent,
    RetrievalEvent,
    RetrievedEntry,
    RoundLimitEvent,
)
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.total import RewardConfig, compute_rewards
from agemem_jax.rollout.trajectory import Trajectory
from tests.rewards.builders import (
    BASED,
    NOISE,
    STALE,
    TASK,
    WORKS,
    add,
    answer,
    retrieve,
    reward_config,
    shown,
    tool,
    trajectory,
)
from tests.rewards.judges import TableJudge


def score(*events, **config) -> types.SimpleNamespace:
    """The reward of these events with everything it is made of."""
    (reward,) = compute_rewards([trajectory(*events)], reward_config(**config), OfflineJudge())
    return types.SimpleNamespace(**reward.values)


# --- The oracle --------------------------------------------------------------------


def oracle(events, config: RewardConfig) -> dict[str, float]:
    """The formulas, read off method.md, over plain dictionaries."""
    records = [{"type": type(e).__name__, **vars(e)} for e in events]
    tools = [r for r in records if r["type"] == "ToolEvent" and r["ok"]]
    answers = [r for r in records if r["type"] == "OutcomeEvent"]
    final = answers[-1] if answers else None
    judge = TableJudge.of

    task = judge(TASK.query, TASK.answer, final["answer"]) if final else -1.0

    compression = preservation = 0.0
    if final:
        compression = float(
            np.maximum(0, 1 - final["context_tokens"] / final["max_context_tokens"])
        )
        # The only name in the query of TASK is Tovelin.
        preservation = 1.0 if "tovelin" in final["context_text"].lower() else 0.0
    overflow = [i for i, r in enumerate(records) if r["type"] == "OverflowEvent"]
    before = records[: overflow[0]] if overflow else records
    reduced = [
        r
        for r in before
        if r.get("name") in ("Summary_context", "Filter_context") and r["ok"] and r["effect"]
    ]
    preventive = 1.0 if reduced else 0.0

    store, total = {}, 0
    for record in tools:
        if record["stage"] != 1:
            continue
        key = record["memory_id"]
        if record["name"] == "Add_memory":
            total += 1
            store[key] = record["content"]
        if record["name"] == "Update_memory" and record["effect"] and key in store:
            store[key] = record["content"]
        if record["name"] == "Delete_memory" and record["effect"]:
            store.pop(key, None)
    good = [c for c in store.values() if judge(TASK.query, TASK.answer, c) >= 0.5]
    storage = len(good) / max(1, total)
    maintained = [
        r for r in tools if r["name"] in ("Update_memory", "Delete_memory") and r["effect"]
    ]
    maintenance = 1.0 if maintained else 0.0
    found = []
    for record in records:
        asked = record in tools and record["name"] == "Retrieve_memory"
        if record.get("stage") == 3 and (asked or record["type"] == "RetrievalEvent"):
            found += [(e.memory_id, e.content) for e in record["retrieved"]]
    distinct = [pair for i, pair in enumerate(found) if pair not in found[:i]]
    relevance = judge(TASK.query, TASK.answer, *(c for _, c in distinct)) if distinct else 0.0

    kinds = {r["type"] for r in records}
    penalty = -1.0 * ("RoundLimitEvent" in kinds) - 0.5 * ("OverflowEvent" in kinds)
    context = np.mean([compression, preventive, preservation])
    memory = np.mean([storage, maintenance, relevance])
    terms = ("task", "context", "memory")
    weights = np.array([config.components[name].weight for name in terms])
    return {
        "task": task,
        "context": context,
        "memory": memory,
        "penalty": penalty,
        "compression": compression,
        "preventive": preventive,
        "preservation": preservation,
        "storage": storage,
        "maintenance": maintenance,
        "relevance": relevance,
        "total": weights @ [task, context, memory] + penalty,
    }


contents = st.sampled_from((WORKS, BASED, STALE, NOISE, "", "Tovelin", "x" * 13))
ids = st.sampled_from([f"mem_{i}" for i in range(4)])
stages = st.sampled_from((1, 2, 3))
budgets = st.integers(1, 3000)
flags = {"stage": stages, "ok": st.booleans(), "changed": st.booleans()}
entries = st.lists(st.builds(RetrievedEntry, ids, contents, st.just(0.5)), max_size=3).map(tuple)
events_strategy = st.one_of(
    st.builds(add, st.uuids().map(str) | ids, contents, **flags),
    st.builds(
        tool,
        st.sampled_from(("Update_memory", "Delete_memory")),
        memory_id=ids,
        content=contents,
        **flags,
    ),
    st.builds(tool, st.sampled_from(("Summary_context", "Filter_context", "Fly")), **flags),
    st.builds(tool, st.just("Retrieve_memory"), retrieved=entries, **flags),
    st.builds(RetrievalEvent, stages, st.just(0), contents, entries),
    st.builds(
        answer, st.sampled_from(("Velton", "no")), st.integers(0, 3000), contents, stages, budgets
    ),
    st.just(OverflowEvent(2, 0, 9000)),
    st.just(RoundLimitEvent(3, 0, 8)),
    st.just(FormatEvent(1, 0, "Add_memory was named in prose.")),
)


def unique_additions(events):
    """A bank never gives an id twice."""
    seen, kept = set(), []
    for event in events:
        if getattr(event, "name", None) == "Add_memory" and event.ok:
            if event.memory_id in seen:
                continue
            seen.add(event.memory_id)
        kept.append(event)
    return kept


weights = st.floats(0.125, 2)
configs = st.builds(reward_config, task=weights, context=weights, memory=weights)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(events_strategy, max_size=12).map(unique_additions), min_size=1, max_size=3),
    configs,
)
def test_every_component_equals_the_formula_for_any_events(batch, config):
    rewards = compute_rewards([trajectory(*events) for events in batch], config, TableJudge())
    for events, reward in zip(batch, rewards, strict=True):
        assert reward.values == pytest.approx(oracle(events, config), abs=1e-12)


@given(st.lists(events_strategy, max_size=12).map(unique_additions))
def test_components_stay_inside_their_ranges(events):
    values = vars(score(*events))
    assert values.pop("penalty") in (0.0, -0.5, -1.0, -1.5)
    values.pop("total")
    task = values.pop("task")
    assert task == -1.0 or 0 <= task <= 1
    assert all(0 <= value <= 1 for value in values.values()), values


# --- Hand-made trajectories, and what goes wrong elsewhere (method.md, section 7) -----


def test_a_perfect_trajectory_earns_what_the_formulas_say():
    reward = score(
        add("a", STALE),
        add("b", BASED),
        tool("Update_memory", memory_id="a", content=WORKS),
        tool("Filter_context", stage=2),
        retrieve(WORKS, BASED),
        answer("velton.", tokens=2048, context=f"- mem_1: {WORKS}"),
    )
    assert vars(reward) == pytest.approx(
        dict(
            total=(1 + 2.75 / 3 + 1) / 3,
            task=1.0,
            context=2.75 / 3,
            memory=1.0,
            penalty=0.0,
            compression=0.75,
            preventive=1.0,
            preservation=1.0,
            storage=1.0,
            maintenance=1.0,
            relevance=1.0,
        )
    )


def test_failed_calls_earn_nothing():
    reward = score(
        add("a", WORKS, ok=False),
        tool("Update_memory", memory_id="a", content=WORKS, ok=False),
        tool("Delete_memory", memory_id="a", ok=False),
        tool("Summary_context", stage=2, ok=False),
        retrieve(WORKS, BASED, ok=False),
    )
    parts = (reward.storage, reward.maintenance, reward.relevance, reward.preventive)
    assert parts == (0.0, 0.0, 0.0, 0.0)


def test_naming_tools_in_prose_earns_nothing():
    prose = "I used Add_memory, Update_memory, Filter_context and Retrieve_memory."
    reward = score(FormatEvent(1, 0, prose), answer(prose, context=prose, stage=1))
    assert (reward.task, reward.context, reward.memory) == (-1.0, 0.0, 0.0)


def test_tools_that_change_nothing_earn_nothing():
    reward = score(
        tool("Filter_context", stage=2, changed=False),
        tool("Update_memory", memory_id="a", content=WORKS, changed=False),
    )
    assert (reward.preventive, reward.maintenance) == (0.0, 0.0)


def test_a_reduction_after_the_overflow_prevents_nothing():
    late = score(OverflowEvent(2, 0, 9000), tool("Summary_context", stage=2))
    early = score(tool("Summary_context", stage=2), OverflowEvent(2, 0, 9000))
    assert (late.preventive, early.preventive) == (0.0, 1.0)


def test_an_answer_in_the_last_allowed_round_is_not_penalised():
    rounds = [retrieve(WORKS)] * 7
    assert score(*rounds, answer()).penalty == 0.0
    assert score(*rounds, retrieve(WORKS), RoundLimitEvent(3, 8, 8)).penalty == -1.0


def test_passing_the_token_budget_costs_half_a_point():
    assert score(OverflowEvent(3, 4, 9000)).penalty == -0.5


def test_no_answer_costs_a_point_and_the_weights_apply_to_it():
    assert score().task == -1.0
    assert score(task=0.5).total == pytest.approx(-0.5)


def test_an_answer_of_an_earlier_stage_is_not_the_tasks_answer():
    assert score(answer("Velton", stage=1), answer("Velton", stage=2)).task == -1.0


def test_storage_counts_what_stage_1_added_and_nothing_later():
    late = add("c", NOISE, stage=2)
    assert score(add("a", WORKS), add("b", NOISE), late).storage == 0.5
    assert score(add("c", WORKS, stage=2)).storage == 0.0


def test_storage_remembers_stage_1_when_the_final_context_does_not():
    assert score(add("a", WORKS), answer(context="")).storage == 1.0


def test_an_entry_is_judged_as_stage_1_left_it():
    assert score(add("a", STALE)).storage == 0.0
    assert score(add("a", STALE), tool("Update_memory", memory_id="a", content=WORKS)).storage == 1
    assert score(add("a", WORKS), tool("Update_memory", memory_id="a", content=NOISE)).storage == 0
    assert (
        score(add("a", WORKS), add("b", STALE), tool("Delete_memory", memory_id="b")).storage == 0.5
    )


def test_relevance_falls_with_useless_and_with_missing_entries():
    assert score(retrieve(WORKS, BASED)).relevance == 1.0
    assert score(retrieve(WORKS, BASED, NOISE)).relevance == pytest.approx(0.8)
    assert score(retrieve(WORKS)).relevance == pytest.approx(2 / 3)
    assert score(retrieve(STALE, NOISE)).relevance == 0.0


def test_retrievals_before_the_query_is_known_are_not_relevant_to_it():
    assert score(retrieve(WORKS, BASED, stage=1), retrieve(WORKS, BASED, stage=2)).relevance == 0.0


def test_entries_shown_unasked_are_as_relevant_as_those_that_were_asked_for():
    assert score(shown(WORKS, BASED)).relevance == 1.0
    assert score(shown(WORKS), retrieve(BASED), shown(WORKS, BASED)).relevance == 1.0
    assert score(retrieve(WORKS, BASED), shown(NOISE)).relevance == pytest.approx(0.8)
    assert score(shown(WORKS, BASED, stage=1), shown(WORKS, BASED, stage=2)).relevance == 0.0


def test_a_failed_episode_has_no_reward():
    failed = Trajectory.failed(TASK, "An episode of task t failed: env crashed.")
    with pytest.raises(ValueError, match="A failed episode has no reward.*env crashed"):
        compute_rewards([trajectory(), failed], RewardConfig(), OfflineJudge())


def test_an_entry_retrieved_twice_counts_once():
    assert score(retrieve(WORKS, BASED, NOISE), retrieve(NOISE)).relevance == pytest.approx(0.8)


def test_a_context_beyond_the_budget_compresses_to_zero_and_not_below():
    assert score(answer(tokens=200, budget=100)).compression == 0.0


def test_no_trajectories_have_no_rewards():
    assert compute_rewards([], RewardConfig(), OfflineJudge()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"task": -1.0}, "task.weight is -1.0; it must be a number of 0 or more"),
        ({"memory": float("nan")}, "memory.weight is nan; it must be a number of 0 or more"),
        ({"task": 0.0, "context": 0.0, "memory": 0.0}, "are all 0"),
        ({"penalty__round_limit": 1.0}, "options.round_limit is 1.0; a penalty must be 0 or less"),
        ({"memory__high_quality": 0.0}, "options.high_quality is 0.0; it must lie in (0, 1]"),
        ({"memory__high_quality": "x"}, "options.high_quality is 'x'; it must be a number"),
        ({"memory__hi_quality": 0.5}, "no option 'hi_quality'; did you mean 'high_quality'?"),
    ],
)
def test_a_wrong_option_is_refused_with_one_sentence(options, says):
    with pytest.raises(ValueError, match="rewards.components") as caught:
        reward_config(**options)
    assert says in str(caught.value)
