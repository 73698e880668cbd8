"""Means over tasks, with bootstrap intervals."""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over tasks and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def percent(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def bootstrap(values: Float[np.ndarray, " task"], samples: int = 10_000, seed: int = 0) -> Estimate:
    """Mean and percentile interval over resampled tasks; all 0 without any value."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return Estimate(0.0, 0.0, 0.0)
    rng = np.random.default_rng(seed)
    count = len(values)
    # One row at a time: all of them at once would be gigabytes for a whole data set.
    means = [values[rng.integers(count, size=count)].mean() for _ in range(samples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))
