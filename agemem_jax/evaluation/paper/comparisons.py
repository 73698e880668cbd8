"""Paired tests between two methods that played the same tasks, over all seeds that both have.

The difference of a task is the mean over the seeds; tasks are what is drawn. So a test says
whether the two differ on other tasks of this kind, with these trained policies; how far policies
of other seeds would differ is what the interval over seeds says.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from agemem_jax.evaluation.paper.results import Measured
from agemem_jax.evaluation.sweeps import over_seeds
from agemem_jax.rewards.estimates import Estimate, bootstrap

_SAMPLES = 9999  # of permutations; where there are no more than these, all of them are tried
_RESAMPLED = 2000  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What one method has more than another.

    Attributes:
      difference: mean over tasks, with its bootstrap interval.
      p_value: two-sided, of the permutation test that flips the signs of the tasks' differences.
      tasks: that both played with every common seed.
      seeds: that both have.
      over_seeds: the same mean with Student's interval over the seeds.
    """

    difference: Estimate
    p_value: float
    tasks: int
    seeds: int
    over_seeds: Estimate


def compare(
    one: Sequence[Measured], other: Sequence[Measured], metric: str = "main"
) -> Comparison | None:
    """`one` less `other`; None where they have no seed or no task in common.

    None, too, where a record has no values by task, as those of earlier versions.
    """
    differences = [
        difference
        for a in one
        for b in other
        if a.seed == b.seed
        and a.main == b.main
        and (difference := _by_task(a.values(metric), b.values(metric)))
    ]
    if not differences:
        return None
    common = set(differences[0]).intersection(*differences[1:])
    table = np.array([[each[task] for task in sorted(common)] for each in differences])
    if not table.size:
        return None
    values = table.mean(axis=0)
    return Comparison(
        bootstrap(values, _RESAMPLED), permutation_test(values), len(values), len(table),
        over_seeds(table.mean(axis=1)),
    )  # fmt: skip


def _by_task(
    one: Mapping[str, float] | None, other: Mapping[str, float] | None
) -> dict[str, float]:
    return {task: one[task] - other[task] for task in one if task in other} if one and other else {}


def permutation_test(differences: Float[np.ndarray, " task"]) -> float:
    """Two-sided p of the mean being 0, by flipping signs; exact where few flips are possible."""
    values = np.asarray(differences, np.float64)
    values = values[values != 0]  # whose sign changes nothing
    if len(values) < 2:  # flipped or not, one difference is as far from 0
        return 1.0
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", vectorized=True, n_resamples=_SAMPLES,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(min(1.0, found.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for so many tests (Holm, 1979)."""
    order = np.argsort(p_values)
    adjusted, highest = np.empty(len(p_values)), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted.tolist()
