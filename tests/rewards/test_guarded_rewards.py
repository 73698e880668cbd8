"""The guarded components by hand, and what they cannot pay whatever happens."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_jax.protocol.events import OverflowEvent, RoundLimitEvent
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.rewards.registry import ComponentConfig, RewardConfig
from agemem_jax.rewards.score import mean_of
from agemem_jax.rewards.total import ask_ahead, compute_rewards
from tests.rewards.builders import (
    BASED,
    NOISE,
    STALE,
    TASK,
    WORKS,
    acted,
    add,
    answer,
    retrieve,
    tool,
    trajectory,
)
from tests.rewards.judges import ListeningJudge, TableJudge
from tests.rewards.test_rewards import events_strategy, unique_additions

GUARDED = RewardConfig(variant="guarded")
DENIAL = "Tovelin does not work at Pelmor."


def score(*events, config=GUARDED, judge=None, task=TASK):
    (reward,) = compute_rewards([trajectory(*events, task=task)], config, judge or OfflineJudge())
    return reward


def parts(*events, **options):
    return score(*events, **options).parts


def ended(given=100, kept=100, shown="", text="Velton", budget=1000, used=100):
    end = answer(text, tokens=used, context=shown, budget=budget)
    return dataclasses.replace(end, given_tokens=given, kept_tokens=kept, shown_text=shown)


def update(memory_id, content, **fields):
    return tool("Update_memory", memory_id=memory_id, content=content, **fields)


def delete(memory_id, **fields):
    return tool("Delete_memory", memory_id=memory_id, **fields)


# --- Context --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept", "value"),
    [(500, 100, None), (600, 600, 0.0), (600, 575, 0.25), (600, 500, 1.0), (600, 200, 1.0),
     (600, 700, 0.0), (None, 900, None), (600, None, None)],
)  # fmt: skip
def test_preventive_is_the_part_of_the_excess_that_is_gone_at_the_end(given, kept, value):
    for used in (200, 900):  # with whatever the policy said and looked up
        end = ended(given, kept, used=used)
        found = parts(tool("Summary_context", stage=2), end)["preventive"]
        assert found == (None if value is None else pytest.approx(value))


def test_an_overflow_of_a_later_stage_prevented_nothing_and_one_of_stage_1_says_nothing():
    assert parts(OverflowEvent(2, 0, 9000))["preventive"] == 0.0
    assert parts(OverflowEvent(1, 0, 9000))["preventive"] is None


def test_a_part_that_was_not_at_stake_is_no_part_of_the_mean():
    reward = score(ended(used=400))
    assert reward.parts == {
        "compression": 0.6, "preventive": None, "preservation": 1.0, "storage": 0.0,
        "maintenance": None, "relevance": 0.0,
    }  # fmt: skip
    assert reward.components["context"] == pytest.approx(0.8)
    edited = score(ended(600, 500, used=500)).components["context"]
    assert edited == pytest.approx((0.5 + 1 + 1) / 3)
    assert mean_of(a=1.0, b=None, c=0.5).value == 0.75


@pytest.mark.parametrize(
    ("removed", "shown", "kept"),
    [
        ((), "", True),  # nothing was removed
        (("Barix works at Dravix.",), "", True),  # nothing of the query was
        (("Memories: Tovelin works at Pelmor.",), "", False),
        (("Tovelin's friend.",), "Summary: about TOVELIN.", True),
    ],
)
def test_preservation_asks_after_what_edits_removed(removed, shown, kept):
    edit = tool("Filter_context", stage=3, removed=removed)
    assert parts(edit, ended(shown=shown))["preservation"] == float(kept)
    early = dataclasses.replace(edit, stage=1)
    assert parts(early, ended(shown=shown))["preservation"] == 1.0, "the reset removes that anyway"
    failed = dataclasses.replace(edit, ok=False)
    assert parts(failed, ended(shown=shown))["preservation"] == 1.0


def test_what_the_policy_says_itself_preserves_nothing():
    edit = tool("Filter_context", stage=3, removed=("About Tovelin.",))
    end = dataclasses.replace(ended(), context_text="I think of Tovelin.", shown_text="Nothing.")
    assert parts(edit, end)["preservation"] == 0.0
    earlier = dataclasses.replace(end, shown_text=None)  # a record that does not tell them apart
    assert parts(edit, earlier)["preservation"] == 1.0
    assert parts(edit)["preservation"] == 0.0, "without an outcome nothing is"


# --- Memory ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "value"),
    [
        ((), 0.0),
        ((add("a", WORKS), add("b", BASED)), 1.0),
        ((add("a", WORKS), add("b", WORKS)), 0.5),
        ((add("a", WORKS), add("b", "I heard that Pelmor employs Tovelin.")), 0.5),
        ((add("a", WORKS), add("b", f"{WORKS} {BASED}")), 1.0),
        ((add("a", f"{WORKS} {BASED}"), add("b", WORKS)), 0.5),
        ((add("a", WORKS), add("b", NOISE), add("c", "x", stage=2), add("d", "x", stage=3)), 0.25),
        ((add("a", STALE), update("a", WORKS)), 1.0),
        ((add("a", WORKS), delete("a"), add("b", WORKS)), 0.5),
        ((add("a", WORKS), delete("a", stage=3), add("b", WORKS, stage=3)), 0.5),
        ((add("a", "Tovelin, Pelmor, Velton"),), 0.0),
        ((add("a", WORKS), add("b", BASED, ok=False)), 1.0),
    ],
)
def test_storage_counts_distinct_facts_over_all_that_was_added(events, value):
    assert parts(*events)["storage"] == pytest.approx(value)


def test_what_only_a_model_finds_good_is_distinct_by_its_words():
    class Generous(OfflineJudge):
        def score_storage(self, items):
            return [1.0] * len(items)

    events = (add("a", "A secret."), add("b", "a secret"), add("c", "Another secret."))
    assert parts(*events, judge=Generous())["storage"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("events", "value"),
    [
        ((add("a", WORKS),), None),  # nothing needed it
        ((add("a", STALE),), 0.0),
        ((add("a", STALE), update("a", WORKS)), 1.0),
        ((add("a", STALE), delete("a")), 1.0),
        ((add("a", STALE), add("b", WORKS)), 0.0),  # beside the stale one
        ((add("a", STALE), update("a", f"{STALE} .")), 0.0),
        ((add("a", WORKS), update("a", f"{WORKS} .")), None),
        ((add("a", WORKS), delete("a")), 0.0),  # a good one is lost
        ((add("a", WORKS), delete("a"), add("b", WORKS)), None),
        ((add("a", WORKS), update("a", NOISE, stage=3)), 0.0),
        ((add("a", WORKS), add("b", STALE), delete("a"), delete("b")), 0.0),
        ((add("a", DENIAL),), 0.0),
        ((add("a", DENIAL), delete("a")), None),  # which the policy made up itself
        ((add("a", DENIAL), update("a", WORKS)), None),
        ((add("a", STALE), add("b", DENIAL), delete("a")), 0.5),
        ((add("a", NOISE), delete("a")), None),
        ((add("a", STALE), update("a", WORKS, ok=False)), 0.0),
    ],
)
def test_maintenance_pays_for_what_was_untrue_and_is_so_no_more(events, value):
    assert parts(*events)["maintenance"] == value


def test_relevance_is_the_papers():
    assert parts(retrieve(WORKS, BASED, NOISE))["relevance"] == pytest.approx(0.8)


# --- The sum --------------------------------------------------------------------------


def test_components_are_paid_by_what_the_task_came_to():
    stored = (add("a", WORKS), add("b", BASED), retrieve(WORKS, BASED))
    for text, task in (("Velton", 1.0), ("Velton or Pelmor", 0.5), ("unknown", 0.0)):
        reward = score(*stored, ended(used=500, text=text))
        assert reward.components["task"] == pytest.approx(task)
        paid = 0.1 + 0.9 * task
        assert reward.total == pytest.approx((task + paid * 0.75 + paid * 1.0) / 3)
    half = dataclasses.replace(GUARDED, on_failure=0.5)
    assert score(*stored, config=half).total == pytest.approx((-1 + 0.5 * 0.0 + 0.5 * 1.0) / 3)


def test_an_environment_is_paid_by_its_progress():
    half = score(add("a", WORKS), acted(0.5, tokens=0))
    assert half.total == pytest.approx((0.5 + 0.55 * 1.0 + 0.55 * 0.5) / 3)


def test_penalties_are_never_made_smaller():
    assert score(RoundLimitEvent(3, 8, 8)).total == pytest.approx(-1 / 3 - 1.0)
    of_ones_own = {**GUARDED.components, "own": ComponentConfig(lambda trajectory, judge: -0.5)}
    config = dataclasses.replace(GUARDED, components=of_ones_own)
    assert score(config=config).total == pytest.approx(-1 / 3 - 0.5)


def test_literal_totals_are_the_weighted_sum_to_the_last_digit():
    reward = score(add("a", WORKS), ended(used=123, text="no"), config=RewardConfig())
    weights = {name: each.weight for name, each in RewardConfig().components.items()}
    total = 0.0
    for name, value in reward.components.items():
        total += weights[name] * value
    assert reward.total == total


@settings(max_examples=200, deadline=None)
@given(st.lists(events_strategy, max_size=12).map(unique_additions))
def test_no_events_at_all_earn_more_than_a_tenth_without_a_right_answer(events):
    reward = score(*events)
    assert all(value is None or 0 <= value <= 1 for value in reward.parts.values())
    if reward.components["task"] <= 0:
        assert reward.total <= 0.1 * 2 / 3 + 1e-9


def test_the_guarded_variant_asks_the_judge_what_the_literal_asks():
    played = [trajectory(add("m1", WORKS), add("m2", STALE), retrieve(WORKS), answer())]
    told = {}
    for variant in ("literal", "guarded"):
        judge, config = ListeningJudge(), RewardConfig(variant=variant)
        for each in played:
            ask_ahead(0, each, config=config, judge=judge)
        compute_rewards(played, config, judge)
        assert sorted(map(repr, judge.told)) == sorted(map(repr, judge.asked))
        told[variant] = judge.told
    assert told["literal"] == told["guarded"]
    assert compute_rewards(played, GUARDED, TableJudge())[0].parts["storage"] <= 1.0


# --- Options --------------------------------------------------------------------------


def test_the_variant_selects_functions_and_keeps_options_and_weights():
    old = RewardConfig().components
    memory = dataclasses.replace(old["memory"], weight=0.7, options={"high_quality": 0.9})
    config = RewardConfig({**old, "memory": memory}, variant="guarded")
    chosen = {name: each.function for name, each in config.components.items()}
    assert chosen == {
        "task": "task", "context": "guarded_context", "memory": "guarded_memory",
        "penalty": "penalty",
    }  # fmt: skip
    assert config.components["memory"].options == {"high_quality": 0.9}
    assert config.components["memory"].weight == 0.7
    assert config.components["context"].options == {"pressure": 0.5}
    again = dataclasses.replace(config, components=config.components)
    assert again == config and again.reweighted(context=0.0).variant == "guarded"
    assert (config.paid_on_failure, RewardConfig().paid_on_failure) == (0.1, 1.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"variant": "safe"}, "rewards.variant is 'safe'; it must be 'literal' or 'guarded'."),
        ({"on_failure": 1.5}, "rewards.on_failure is 1.5; it must lie in [0, 1]."),
        (
            {"components": {"memory": ComponentConfig("memory")}, "variant": "guarded"},
            "rewards.on_failure is 0.1, but rewards.components has no task to tell a failure by; "
            "add it, or set rewards.on_failure to 1.",
        ),
        (
            {"components": {"c": ComponentConfig("guarded_context", options={"pressure": 0.0})}},
            "rewards.components.c.options.pressure is 0.0; it must lie in (0, 1].",
        ),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(options, says):
    with pytest.raises(ValueError) as error:
        RewardConfig(**options)
    assert str(error.value) == says
