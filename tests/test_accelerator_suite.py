"""The suite for accelerators at tiny sizes: what it counts, and that nothing stops it."""

import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import loading
from experiments.benchmarks import reports
from experiments.benchmarks.accelerator import (
    attention,
    device_time,
    episodes,
    generation,
    start,
    suite,
    training,
)
from experiments.benchmarks.accelerator.sizes import FULL, TINY
from experiments.benchmarks.options import Options
from experiments.benchmarks.timing import Timing
from tests.launch.launching import ROOT


def options(folder, **changes) -> Options:
    given = {"repeats": 1, "peers": False, "environments": folder / "none"} | changes
    return Options(folder=folder, output=folder, **given)


def test_the_script_for_a_gpu_machine_tests_measures_and_writes_its_table(tmp_path):
    command = ["bash", "launch/gpu_check.sh", str(tmp_path), "240", "--parts=limits", "--repeats=1"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "JAX uses no NVIDIA GPU here" in (tmp_path / "tests.txt").read_text()
    assert "jax" in (tmp_path / "machine.txt").read_text()
    cases = json.loads((tmp_path / "benchmark.json").read_text())["suites"]["accelerator"]
    assert all(min(case["ours"]["values"]) > 0 for case in cases)
    assert {case["ours"]["unit"] for case in cases} == {"GB/s", "TFLOP/s", "s"}
    assert "| copy of " in (tmp_path / "benchmark.md").read_text()


@pytest.mark.parametrize("part", [attention.run, generation.run, episodes.run])
def test_a_part_measures_what_it_names(part):
    cases = list(part(TINY, 1))
    names = [case.name for case in cases]
    assert len(set(names)) == len(names) >= 2
    assert all(np.isfinite(case.ours.median) and case.ours.median >= 0 for case in cases)
    for case in cases:
        others = [*case.peers.values(), *([case.limit] if case.limit else [])]
        assert all(case.ratio(other) > 0 for other in others)


def test_rows_of_an_update_hold_a_group_each():
    batch, pairs = training.make_batch(TINY.trained, TINY)
    assert batch.tokens.shape == (TINY.rows_of_update, 1, TINY.row)
    assert int(batch.num_microbatches) == TINY.rows_of_update
    # A row is without the last token of each rollout, whose state predicts nothing.
    new = (TINY.row - TINY.prompt_of_row) // attention.ROLLOUTS
    seen = np.sum(np.maximum(0, batch.visible_to - np.arange(TINY.row)))
    last = TINY.rows_of_update * attention.ROLLOUTS * (TINY.prompt_of_row + new)
    assert seen == pairs - last
    assert np.sum(batch.target_mask) == TINY.rows_of_update * attention.ROLLOUTS * new


def test_a_part_that_fails_costs_its_own_rows(tmp_path):
    (failed,) = suite.measure_alone(
        "wrong", "limits.no_such_function", "tiny", options(tmp_path), 60, tmp_path / "wrong.log"
    )
    assert failed.ours is None and failed.note.startswith("failed: AttributeError")
    text = reports.markdown({"machine": {}, "suites": {"accelerator": [failed]}})
    assert "| wrong | none, see below | | | |" in text and "- wrong: failed" in text


def test_a_part_that_hangs_is_ended(tmp_path):
    begun = time.monotonic()
    (ended,) = suite.measure_alone(
        "slow", "limits.run", "tiny", options(tmp_path), 0.5, tmp_path / "slow.log"
    )
    assert ended.note == "not done after 0 s; see slow.log" and time.monotonic() - begun < 10


def test_what_no_longer_fits_is_left_out_and_said(tmp_path):
    cases = suite.run(options(tmp_path, budget=1.0))
    assert [case.name for case in cases] == list(suite.PARTS)
    assert all("left out: the 1 s are over" in case.note for case in cases)
    with pytest.raises(ValueError, match="No part is called 'speed'; known: limits, "):
        suite.run(options(tmp_path, parts=("speed",)))


def test_a_peer_that_is_not_there_is_told_and_one_that_is_stands_beside(tmp_path):
    case = suite.Case("decode", Timing((4.0,), "tokens/s"))

    def absent(*_):
        raise FileNotFoundError("trl is not installed here")

    def there(*_):
        rate = Timing((2.0,), "tokens/s")
        return {"decode": {"other": rate}, "prefill": {"other": rate}}

    settings = options(tmp_path)
    (told,) = suite._beside([case], "TRL", absent, TINY, settings, 60.0)
    assert told.ours is None and told.note == "trl is not installed here"
    (alone,) = suite._beside([case], "other", there, TINY, settings, 60.0)
    assert alone.name == "prefill: other alone"  # ours has no such case
    assert case.ratio(case.peers["other"]) == 2.0


def test_cases_come_back_as_they_were_written():
    case = suite.Case("a", Timing((1.0, 2.0)), {"b": Timing((3.0,))}, wanted={"b": 2.0}, note="c")
    report = {"suites": {"x": [case, suite.Case("failed", None)]}}
    written = json.loads(json.dumps(reports.plain(report)))["suites"]["x"]
    assert [suite.read_case(each) for each in written] == report["suites"]["x"]


@pytest.mark.parametrize("sizes", [TINY, FULL], ids=["tiny", "full"])
def test_a_forest_is_rollouts_behind_a_prompt(sizes):
    (visible_to, positions), pairs = attention.make_forest(sizes)
    order = np.arange(sizes.row)
    assert np.sum(np.maximum(0, visible_to[0] - order)) == pairs
    # Each of the last tokens of rollouts sees the prompt and its own rollout.
    length = (sizes.row - sizes.prompt_of_row) // attention.ROLLOUTS
    last = sizes.prompt_of_row + length * np.arange(1, attention.ROLLOUTS + 1) - 1
    assert np.all(positions[0, last] == sizes.prompt_of_row + length - 1)
    assert length * attention.ROLLOUTS + sizes.prompt_of_row == sizes.row


def test_a_decoded_token_reads_weights_once_and_caches_as_far_as_they_are_filled():
    weights = generation.random_weights(TINY.model)
    width, ffn, vocabulary, kv = 64, 96, 1024, 32
    matrices = 2 * width * 64 + 2 * width * kv + 3 * width * ffn + 64 + 2 * kv  # biases as well
    whole = 2 * (2 * matrices + vocabulary * width) + 4 * (2 * 2 + 1) * width  # norms in float32
    read = generation.bytes_of_step(TINY.model, weights, 3, 10.0)
    assert read == whole + 3 * 10 * 2 * 2 * kv * 2


def test_the_model_that_is_started_has_the_shape_that_was_asked_for(tmp_path):
    start.write_backbone(tmp_path / "backbone", TINY.model)
    backbone = loading.open_backbone(
        str(tmp_path / "backbone"), init="random", key=jax.random.key(0), compute_dtype="bfloat16"
    )
    assert backbone.config == TINY.model


def test_spans_that_overlap_count_once():
    spans = [(5.0, 9.0), (0.0, 2.0), (1.0, 3.0), (6.0, 7.0)]
    assert device_time.length_of_union(spans) == 7.0


def test_a_device_that_waits_for_the_host_is_idle(tmp_path):
    # Large enough for the threads that work for XLA; a small one is computed by the caller.
    square, matrix = jax.jit(jnp.matmul), jnp.ones((1024, 1024))
    jax.block_until_ready(square(matrix, matrix))

    def mostly_sleep():
        jax.block_until_ready(square(matrix, matrix))
        time.sleep(0.5)

    assert 0.5 < device_time.idle_share(mostly_sleep, tmp_path) < 1.0
