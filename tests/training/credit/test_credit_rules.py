"""Each rule on small groups written by hand, against its formula computed by definition."""

import dataclasses

import numpy as np
import pytest

from agemem_jax.rewards.judges import OfflineJudge
from agemem_jax.training.credit.broadcast import Broadcast
from agemem_jax.training.credit.gigpo import GiGPO
from agemem_jax.training.credit.local import LocalRerollouts
from agemem_jax.training.credit.rule import Branches, Credit, Span
from agemem_jax.training.credit.utility import MemoryUtility
from agemem_jax.training.credit.without_summaries import WithoutSummaries
from tests.rewards.builders import BASED, NOISE, WORKS
from tests.training.credit.builders import by_definition, episode, group, scored, stored

JUDGE = OfflineJudge()


def advantages(rule, one):
    return [credit.steps for credit in rule.score_group(scored(rule, one, JUDGE))]


def test_broadcast_gives_an_episodes_advantage_to_all_of_its_steps():
    one = group(episode(0.9, (1, 1, "a"), (3, 2, "b")), episode(0.2, (3, 1, "c")), episode(0.1))
    wanted = by_definition([0.9, 0.2, 0.1])
    for steps, value, count in zip(advantages(Broadcast(), one), wanted, (2, 1, 0), strict=True):
        np.testing.assert_allclose(steps, np.full(count, value), rtol=1e-5)


def test_summaries_can_be_left_without_an_advantage():
    one = group(episode(0.9, (2, 1, "a"), (2, 2, "b"), (3, 3, "c")), episode(0.2, (3, 1, "d")))
    entry = one.episodes[0].trajectory.transcript[2]
    assert (entry.step, entry.role) == (1, "act")
    one.episodes[0].trajectory.transcript[2] = dataclasses.replace(entry, role="summary")
    first, second = by_definition([0.9, 0.2])
    found = advantages(WithoutSummaries(), one)
    np.testing.assert_allclose(found[0], [first, 0.0, first], rtol=1e-5)
    np.testing.assert_allclose(found[1], [second], rtol=1e-5)
    assert one.counts == {"untrained_summaries": 1}


def test_steps_are_anchored_where_prompt_and_memory_are_the_same():
    # Two store the same at step 0, a third nothing; behind the reset all have the prompt 5.
    kept = [stored(0, "m", WORKS)]
    one = group(
        episode(1.0, (1, 1, "a"), (2, 5, "b"), (3, 6, "c"), events=kept),
        episode(0.3, (1, 1, "a"), (2, 5, "d"), events=kept),
        episode(0.2, (1, 1, "e"), (2, 5, "b"), (3, 6, "c")),
    )
    found = advantages(GiGPO(weight=0.5, discount=0.9), one)
    whole = by_definition([1.0, 0.3, 0.2])
    first = by_definition([0.81 * 1.0, 0.9 * 0.3, 0.81 * 0.2])
    reset = by_definition([0.9 * 1.0, 0.3])
    wanted = [
        [whole[0] + 0.5 * first[0], whole[0] + 0.5 * reset[0], whole[0]],
        [whole[1] + 0.5 * first[1], whole[1] + 0.5 * reset[1]],
        [whole[2] + 0.5 * first[2], whole[2], whole[2]],
    ]
    for steps, own in zip(found, wanted, strict=True):
        np.testing.assert_allclose(steps, own, rtol=1e-5)
    assert one.counts == {"anchors": 2, "anchored_steps": 5}


def test_a_state_that_an_episode_comes_back_to_is_compared_with_itself():
    one = group(episode(1.0, (3, 1, "a"), (3, 1, "b")), episode(0.5, (3, 2, "c")))
    found = advantages(GiGPO(discount=0.5), one)
    whole, state = by_definition([1.0, 0.5]), by_definition([0.5, 1.0])
    np.testing.assert_allclose(found[0], whole[0] + state, rtol=1e-5)
    np.testing.assert_allclose(found[1], [whole[1]], rtol=1e-5)


def test_a_memory_is_worth_the_mean_of_its_continuations():
    rule = LocalRerollouts(memories=1, continuations=2, weight=0.5)
    steps = ((1, 1, "a"), (1, 2, "b"), (2, 5, "c"), (3, 6, "d"))
    one = group(episode(0.4, *steps, place=0), episode(0.6, *steps[1:], place=1))
    scored(rule, one, JUDGE)
    assert [each.score for each in one.episodes] == [Branches(2, 2), None]
    one.episodes[0].branches = [
        episode(0.9, *steps, replayed=2), episode(0.8, *steps[:3], replayed=2),
    ]  # fmt: skip
    found = [credit.steps for credit in rule.score_group(one)]
    whole = by_definition([0.4, 0.6])
    value = by_definition([(0.4 + 0.9 + 0.8) / 3, 0.6])
    local = 0.5 * by_definition([0.4, 0.9, 0.8])
    np.testing.assert_allclose(found[0], [value[0]] * 2 + [whole[0] + local[0]] * 2, rtol=1e-5)
    np.testing.assert_allclose(found[1], [value[1]] + [whole[1]] * 2, rtol=1e-5)
    np.testing.assert_allclose(found[2][2:], [local[1]] * 2, rtol=1e-5)
    np.testing.assert_allclose(found[3][2:], [local[2]], rtol=1e-5)
    assert value[0] > 0 > whole[0], "a good memory of which one episode made little"


@pytest.mark.parametrize(
    "steps", [(), ((1, 1, "a"),), ((2, 5, "c"), (3, 6, "d"))], ids=["none", "ended", "no Stage 1"]
)
def test_an_episode_without_a_memory_behind_the_reset_is_not_branched(steps):
    assert LocalRerollouts().score_episode(episode(0.4, *steps), JUDGE) is None


def call(text):
    return f'{{"name": "Add_memory", "arguments": {{"content": "{text}"}}}}'


def test_a_memory_operation_is_paid_on_its_call_where_the_outcome_agrees():
    both = f"<tool_call>[{call(WORKS)}, {call(NOISE)}]</tool_call>"
    last = f"<tool_call>[{call(BASED)}]</tool_call>"
    one = group(
        episode(1.0, (1, 1, both), (3, 2, "x"),
                events=[stored(0, "m1", WORKS), stored(0, "m2", NOISE)]),
        episode(0.0, (1, 1, "y"), (2, 2, last), events=[stored(1, "m3", BASED, stage=2)]),
    )  # fmt: skip
    rule = MemoryUtility(weight=0.5, unsupported=0.25)
    first, second = rule.score_group(scored(rule, one, JUDGE))
    whole = by_definition([1.0, 0.0])
    np.testing.assert_allclose(first.steps, [whole[0]] * 2, rtol=1e-5)
    np.testing.assert_allclose(second.steps, [whole[1]] * 2, rtol=1e-5)
    # Each fact is one of two: MQ rises by a half, and not at all with the noise.
    worth = by_definition([0.5, 0.0, 0.5])
    assert worth[0] > 0 > worth[1]
    texts = {0: both, 1: last}
    for span, text, value in (
        (first.spans[0], call(WORKS), 0.5 * worth[0]),
        (first.spans[1], call(NOISE), 0.5 * 0.25 * worth[1]),  # the episode went well in spite
        (second.spans[0], call(BASED), 0.5 * 0.25 * worth[2]),  # and this one did not
    ):
        assert texts[span.step][span.start : span.end] == text
        assert span.value == pytest.approx(value, rel=1e-5)
    assert one.counts == {"operations": 3, "credited": 3}


def test_operations_count_fully_where_all_outcomes_are_alike():
    events = [stored(0, "m1", WORKS), stored(1, "m2", NOISE)]
    steps = ((1, 1, f"<tool_call>[{call(WORKS)}]</tool_call>"),
             (1, 2, f"<tool_call>[{call(NOISE)}]</tool_call>"))  # fmt: skip
    one = group(*(episode(0.1, *steps, events=events) for _ in range(3)))
    rule = MemoryUtility()
    values = [[s.value for s in c.spans] for c in rule.score_group(scored(rule, one, JUDGE))]
    np.testing.assert_allclose(values, [by_definition([0.5, 0.0] * 3)[:2]] * 3, rtol=1e-5)


def test_what_a_delete_or_an_update_loses_is_a_loss():
    events = [
        stored(0, "m1", WORKS), stored(1, "m1", NOISE, "updated"), stored(2, "m2", BASED),
        stored(3, "m2", None, "deleted"),
    ]  # fmt: skip
    steps = [(1, n, f"<tool_call>[{call('x')}]</tool_call>") for n in range(4)]
    rule = MemoryUtility()
    found = rule.score_episode(episode(1.0, *steps, events=events), JUDGE)
    assert [utility for utility, _ in found] == [0.5, -0.5, 0.5, -0.5]
    assert [span.step for _, span in found] == [0, 1, 2, 3]


def test_spans_add_to_the_tokens_of_their_step_alone():
    credit = Credit(np.array([1.0, -1.0], np.float32), [Span(1, 1, 3, 0.5), Span(1, 2, 4, 0.25)])
    step, place = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2, 3])
    np.testing.assert_array_equal(credit.of_tokens(step, place), [1, 1, 1, -1, -0.5, -0.25, -0.75])
    assert credit.of_tokens(step, place).dtype == np.float32


def test_credit_of_nothing_but_zeros_teaches_nothing():
    assert not Credit(np.zeros(2)) and not Credit(np.zeros(0), [Span(0, 0, 1, 0.0)])
    assert Credit(np.array([0.0, 0.1])) and Credit(np.zeros(1), [Span(0, 0, 1, 0.1)])
