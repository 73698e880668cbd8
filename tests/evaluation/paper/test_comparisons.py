"""Paired tests by oracles: what is enumerated by hand, and SciPy's own."""

import itertools

import numpy as np
import pytest
from scipy import stats

from agemem_jax.evaluation.paper import comparisons
from agemem_jax.evaluation.paper.pareto import front
from agemem_jax.evaluation.paper.results import Measured
from tests.evaluation.paper.builders import make_record


def measured(seed, share, source="multihop", rows=True, order=0):
    record = make_record(source, "agemem", share, (seed, order), rows)
    return Measured(seed, record, {}, None)


def test_the_p_value_of_few_tasks_is_that_of_all_flips_of_signs():
    values = np.array([0.5, -0.25, 1.0, 0.75, 0.0, 0.5])
    flips = itertools.product((-1, 1), repeat=len(values))
    means = [abs(np.mean(values * flip)) for flip in flips]
    expected = np.mean([mean >= abs(values.mean()) - 1e-12 for mean in means])
    assert comparisons.permutation_test(values) == pytest.approx(expected)


def test_the_p_value_of_many_tasks_is_near_that_of_a_t_test():
    values = np.random.default_rng(3).normal(0.15, 1.0, 200)
    p = comparisons.permutation_test(values)
    assert p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)
    assert comparisons.permutation_test(values) == p, "the same data give the same p"


def test_methods_that_never_differ_have_a_p_value_of_one():
    assert comparisons.permutation_test(np.zeros(10)) == 1.0


@pytest.mark.parametrize("values", [[0.4], [0.0, 0.0, -1.0], [0.0, 0.5, 0.0, 0.0, 0.5]])
def test_few_tasks_that_differ_are_tested_by_every_flip(values):
    values = np.array(values)
    flips = itertools.product((-1, 1), repeat=len(values))
    expected = np.mean([abs((values * flip).sum()) >= abs(values.sum()) for flip in flips])
    assert comparisons.permutation_test(values) == expected


def test_adjusted_p_values_are_holms():
    assert comparisons.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert comparisons.holm([]) == []


def test_a_comparison_is_over_the_tasks_and_seeds_that_both_have():
    one = [measured(0, 0.8), measured(1, 0.8), measured(2, 0.8)]
    other = [measured(1, 0.3), measured(2, 0.3)]
    found = comparisons.compare(one, other)
    assert (found.tasks, found.seeds) == (20, 2)
    values = np.mean(
        [
            [one[i].values()[t] - other[i - 1].values()[t] for t in other[0].values()]
            for i in (1, 2)
        ],
        axis=0,
    )
    assert found.difference.mean == pytest.approx(values.mean()) == pytest.approx(0.5)
    assert found.difference.low > 0 and found.p_value < 0.01
    assert found.over_seeds.mean == pytest.approx(0.5)


def test_records_without_values_by_task_are_not_compared():
    assert comparisons.compare([measured(0, 0.8)], [measured(0, 0.3, rows=False)]) is None
    assert comparisons.compare([measured(0, 0.8)], [measured(1, 0.3)]) is None


def test_the_pareto_front_has_what_no_other_beats():
    points = [(1, 0.2), (2, 0.5), (2, 0.4), (3, 0.5), (4, 0.9), (1, 0.2)]
    assert front(points) == [0, 1, 4, 5]
