"""What goes wrong is counted by name, and too much of it ends the run."""

import math

import pytest

from agemem_jax.training.faults import FaultConfig, Faults, TrainingFault

GOOD = {"loss": 0.1, "grad_norm": 1.0}
BAD = {"loss": math.nan, "grad_norm": math.nan}


def test_updates_that_are_not_finite_are_counted_and_several_in_a_row_end_the_run():
    faults = Faults(FaultConfig(max_skipped_updates=3))
    for values in (BAD, BAD, GOOD, BAD, BAD):  # never three in a row
        faults.watch_update(0, values)
    assert faults.take() == {"faults/skipped_updates": 4}
    assert faults.take() == {}
    with pytest.raises(TrainingFault, match="3 updates in a row .* newest checkpoint is sound"):
        faults.watch_update(5, {"loss": 0.1, "grad_norm": math.inf})


def test_failed_episodes_are_counted_and_too_many_end_the_run():
    faults = Faults(FaultConfig(max_failed_episodes=2))
    faults.watch_episodes([])
    faults.watch_episodes(["one hung"])
    assert faults.take() == {"faults/failed_episodes": 1}
    with pytest.raises(TrainingFault, match="2 episodes .* failed, the last one like this: two"):
        faults.watch_episodes(["one", "two"])


@pytest.mark.parametrize("name", ["max_skipped_updates", "max_failed_episodes"])
def test_a_limit_below_one_is_refused_by_its_name(name):
    with pytest.raises(ValueError, match=f"faults.{name} is 0"):
        FaultConfig(**{name: 0})
