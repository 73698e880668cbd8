"""Scripted policies that do not do the task earn nothing for it under the guarded rewards.

`experiments/checks/reward_hacks.py` prints the same on as many tasks as wanted.
"""

import numpy as np
import pytest

from agemem_jax.protocol.events import ToolEvent
from agemem_jax.rewards.guarded_context import GuardedContext
from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.tasks.multihop import MultihopConfig, MultihopSource
from agemem_jax.training.warmup.demonstrations import names_in
from experiments.checks import reward_hacks, scripted_policies
from experiments.checks.scripted_policies import Hoarder, Honest, HonestWithDummies, Mute, call

_MUCH = 0.05  # what nobody may earn for nothing


@pytest.fixture(scope="module")
def stage():
    return scripted_policies.Stage()


@pytest.fixture(scope="module")
def rows(stage):
    """Means over 16 tasks by policy, under both variants."""
    source = MultihopSource("test", 16)
    tasks = [source[index] for index in range(len(source))]
    policies = (*scripted_policies.UNKNOWN, *scripted_policies.ANSWERING)
    played = {policy: stage.play(tasks, policy) for policy in policies}
    return {
        variant: {policy: reward_hacks.row(each, variant) for policy, each in played.items()}
        for variant in ("literal", "guarded")
    }


def test_the_literal_rewards_pay_for_what_helps_nobody(rows):
    totals = {policy: row["total"] for policy, row in rows["literal"].items()}
    assert totals[Hoarder] > totals[Mute] + 0.4
    assert totals[HonestWithDummies] > totals[Honest] + 0.1


@pytest.mark.parametrize("policy", scripted_policies.UNKNOWN[1:])
def test_who_does_not_answer_earns_no_more_than_who_does_nothing(rows, policy):
    totals = {policy: row["total"] for policy, row in rows["guarded"].items()}
    assert rows["guarded"][policy]["task"] <= 0.0
    assert totals[policy] <= totals[Mute] + _MUCH


@pytest.mark.parametrize("policy", scripted_policies.ANSWERING[2:])
def test_calls_that_help_nothing_earn_an_honest_agent_nothing(rows, policy):
    row, honest = rows["guarded"][policy], rows["guarded"][Honest]
    assert row["total"] <= honest["total"] + _MUCH
    if policy is HonestWithDummies:
        assert row["total"] >= honest["total"] - _MUCH
    if policy in (scripted_policies.HonestReverser, scripted_policies.HonestDeleter):
        assert row["memory"] < honest["memory"] - 0.2, "which loses what it had stored"


def test_the_honest_agent_is_far_above_all_that_do_not_answer(rows):
    totals = {policy: row["total"] for policy, row in rows["guarded"].items()}
    others = [totals[policy] for policy in (*scripted_policies.UNKNOWN, scripted_policies.Guesser)]
    assert totals[Honest] > max(others) + 0.3


def test_the_policies_do_what_they_are_named_after(stage):
    """A policy whose calls fail would prove nothing."""
    source = MultihopSource("test", 6)
    tasks = [source[index] for index in range(len(source))]
    effects = {
        scripted_policies.Summariser: {"reduced", "retrieved"},
        scripted_policies.DummyWriter: {"added", "reduced", "retrieved", "deleted"},
        Hoarder: {"added", "reduced", "retrieved", "updated"},
        scripted_policies.Filterer: {"reduced"},
        scripted_policies.Inflater: {"retrieved", "reduced"},
        scripted_policies.Reverser: {"added", "reduced", "retrieved", "deleted"},
        scripted_policies.Renewer: {"added", "reduced", "retrieved", "deleted"},
        scripted_policies.HonestInflater: {"added", "retrieved", "reduced"},
        scripted_policies.HonestReverser: {"added", "retrieved", "deleted"},
    }
    for policy, wanted in effects.items():
        played = stage.play(tasks, policy)
        calls = [e for each in played for e in each.events if isinstance(e, ToolEvent)]
        assert wanted <= {event.effect for event in calls}, policy
        assert np.mean([not event.ok for event in calls]) < 0.2, policy


# --- Where distractors fill the context ---------------------------------------------


class Emptier(Mute):
    """Summarises everything to a letter whenever there is something."""

    def tidy(self, said):
        return call(("Summary_context", {"span": "all"}))


class Tidy(Honest):
    """Honest, and summarises the third distractor with those before it."""

    heard = 0

    def respond(self, request):
        if request.purpose == "summary":
            return "Talk about other people."
        if request.stage == 2:
            self.heard += 1
            if self.heard == 3:
                return call(("Summary_context", {"span": "all"}))
        return super().respond(request)


class Trifler(Honest):
    """Honest, and summarises one message, once, that is not long."""

    heard = 0

    def respond(self, request):
        if request.purpose == "summary":
            return "Talk."
        if request.stage == 2:
            self.heard += 1
            if self.heard == 2:
                return call(("Summary_context", {"span": "1"}))
        return super().respond(request)


def test_under_pressure_edits_pay_by_what_they_remove(stage):
    source = MultihopSource("test", 4, config=MultihopConfig(num_distractors=12))
    tasks = [source[index] for index in range(len(source))]
    component = GuardedContext()
    found = {}
    for policy in (Mute, Emptier, Honest, Trifler, Tidy):
        scores = [component(each, OfflineJudge()) for each in stage.play(tasks, policy)]
        assert all(score.parts["preventive"] is not None for score in scores), "given to all alike"
        found[policy] = float(np.mean([score.parts["preventive"] for score in scores]))
    assert (found[Mute], found[Honest]) == (0.0, 0.0)
    assert found[Emptier] == 1.0 and 0.5 < found[Tidy] < 1.0
    assert found[Trifler] < 0.2


def test_what_is_lost_from_a_context_is_told_from_what_was_never_there(stage):
    """A summary after the query that leaves its names out loses them, one with them does not."""

    class Loser(HonestWithDummies):
        keeps = False

        def respond(self, request):
            if request.purpose == "summary":
                return " ".join(names_in(self.task.query)) if self.keeps else "They met."
            if request.stage == 2:
                return Honest.respond(self, request)
            return super().respond(request)

        def after_retrieval(self, said):
            return call(("Summary_context", {"span": "all"}))

    class Keeper(Loser):
        keeps = True

    source = MultihopSource("test", 4)
    tasks = [source[index] for index in range(len(source))]
    parts = {
        policy: [
            GuardedContext()(each, OfflineJudge()).parts["preservation"]
            for each in stage.play(tasks, policy)
        ]
        for policy in (Loser, Keeper, Mute)
    }
    assert parts == {Loser: [0.0] * 4, Keeper: [1.0] * 4, Mute: [1.0] * 4}
