"""Means over tasks, with bootstrap intervals."""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over tasks and its 95 % bootstrap interval, from `low` to `high`."""

    mean: float
    low: float
    high: float

    def percent(self) -> str:
        """All three as a table shows them, such as "39.5 [33.0, 46.5]"."""
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def bootstrap(values: Float[np.ndarray, " task"], samples: int = 10_000, seed: int = 0) -> Estimate:
    """Mean and percentile interval over resampled tasks; all 0 without any value."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return Estimate(0.0, 0.0, 0.0)
    return bootstrap_together(values[:, None], samples, seed)[0]


def bootstrap_together(
    values: Float[np.ndarray, "task column"], samples: int = 10_000, seed: int = 0
) -> list[Estimate]:
    """`bootstrap` of each column, by the same resampled tasks; there is one task at least."""
    rng = np.random.default_rng(seed)
    count = len(values)
    # One row at a time: all of them at once would be gigabytes for a whole data set.
    drawn = (rng.integers(count, size=count) for _ in range(samples))
    means = [np.bincount(chosen, minlength=count) @ values / count for chosen in drawn]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return [
        Estimate(*map(float, each)) for each in zip(values.mean(axis=0), low, high, strict=True)
    ]
