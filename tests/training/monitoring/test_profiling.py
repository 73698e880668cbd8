"""Which steps are traced, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from agemem_jax.training.monitoring.profiling import Profiler, parse_steps


@pytest.mark.parametrize(("text", "steps"), [("5:8", (5, 8)), ("3", (3, 3)), ("1:1", (1, 1))])
def test_steps_are_read(text, steps):
    assert parse_steps(text) == steps


@pytest.mark.parametrize("text", ["", "a", "0", "0:4", "8:5", "5:", ":5", "5-8", "-1:3", "1:2:3"])
def test_wrong_steps_are_refused(text):
    with pytest.raises(ValueError, match="--profile_steps is .*such as 5:8"):
        parse_steps(text)


def test_steps_behind_the_end_of_a_run_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ends at step 8, and the run has 6 steps in all"):
        Profiler((5, 8), tmp_path, total=6)
    Profiler((5, 6), tmp_path, total=6)


@pytest.mark.parametrize(
    ("begins_at", "traced"), [(0, [3, 4]), (3, [4]), (4, []), (9, [])]
)  # a run that is taken up again traces what is left
def test_exactly_the_steps_asked_for_are_traced(tmp_path, monkeypatch, begins_at, traced):
    running, found = [False], []
    monkeypatch.setattr(
        jax.profiler, "start_trace", lambda folder, profiler_options: running.__setitem__(0, True)
    )
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: running.__setitem__(0, False))
    profiler = Profiler((3, 4), tmp_path, total=10)
    profiler.at(begins_at)
    for step in range(begins_at + 1, 11):
        found += [step] if running[0] else []
        profiler.at(step)
    assert found == traced and not running[0]


def test_a_trace_is_a_file_that_tools_read(tmp_path):
    profiler = Profiler((1, 5), tmp_path, total=5)
    profiler.at(0)
    jnp.arange(8.0).sum().block_until_ready()
    profiler.close()  # a run that was interrupted writes what it has
    profiler.close()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert list((tmp_path / "profile").rglob("*.trace.json.gz"))
