"""Variants over seeds: intervals by an oracle, pairs by seed, and what is written."""

import json
import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from agemem_jax.evaluation import sweeps


def make_run(folder, variant, seed, j, methods=("AgeMem",)):
    workdir = folder / variant / str(seed)
    workdir.mkdir(parents=True)
    rows = [
        {"title": method, "j": {"mean": j, "low": 0, "high": 1}, "tasks": 9, "tc": {"Add": 2.0}}
        for method in methods
    ]
    (workdir / "evaluation.json").write_text(json.dumps({"results": rows}))
    lines = [{"step": i, "reward": j + i, "sampled_tokens": 100} for i in (1, 2, 3)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return sweeps.Run(variant, seed, workdir)


def test_the_interval_over_seeds_is_students():
    values = [0.2, 0.5, 0.3, 0.4, 0.7]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    estimate = sweeps.over_seeds(values)
    np.testing.assert_allclose(
        [estimate.mean, estimate.low, estimate.high], [np.mean(values), *expected]
    )


def test_one_seed_says_nothing_about_others():
    estimate = sweeps.over_seeds([0.4])
    assert estimate.mean == 0.4 and math.isinf(estimate.low) and math.isinf(estimate.high)


def test_variants_are_compared_seed_by_seed(tmp_path):
    runs = [make_run(tmp_path, "a", seed, j) for seed, j in enumerate((0.1, 0.5, 0.9))]
    runs += [make_run(tmp_path, "b", seed, j) for seed, j in enumerate((0.2, 0.6, 1.02))]
    summary = sweeps.Summary(runs)
    (difference,) = summary.differences().values()
    expected = stats.ttest_rel([0.2, 0.6, 1.02], [0.1, 0.5, 0.9]).confidence_interval(0.95)
    np.testing.assert_allclose([difference["j"].low, difference["j"].high], expected)
    # Seeds differ by more than variants do, which the pairs take out.
    assert difference["j"].low > 0
    assert (
        summary.estimates()["b", "AgeMem"]["j"].low < summary.estimates()["a", "AgeMem"]["j"].mean
    )


def test_a_variant_with_fewer_seeds_is_compared_over_those_that_both_have(tmp_path):
    runs = [make_run(tmp_path, "a", seed, 0.5) for seed in (0, 1)]
    runs.append(make_run(tmp_path, "b", 1, 0.75))
    difference = sweeps.Summary(runs).differences()["b", "AgeMem"]["j"]
    assert difference.mean == 0.25 and math.isinf(difference.high)


def test_the_table_has_every_variant_and_method_and_the_metrics_asked_for(tmp_path):
    runs = [make_run(tmp_path, v, 0, 0.5, ("AgeMem", "AgeMem-noRL")) for v in ("a", "b")]
    console = Console(width=200, record=True, file=open(tmp_path / "out", "w"))  # noqa: SIM115
    for table in sweeps.render(sweeps.Summary(runs), ["j", "tc/Add"]):
        console.print(table)
    text = console.export_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    for variant in ("a", "b"):
        for method in ("AgeMem", "AgeMem-noRL"):
            assert [variant, method, "50.0", "2.00"] in lines
    assert ["variant", "method", "J", "Add"] in lines
    assert [sweeps._title(name) for name in ("tc/Summary_context", "r_memory", "mq")] == [
        "Summary", "r_memory", "MQ",
    ]  # fmt: skip


def test_values_of_all_seeds_are_written_with_their_estimates(tmp_path):
    runs = [make_run(tmp_path, v, seed, 0.5) for v in ("a", "b") for seed in (0, 1)]
    sweeps.write(tmp_path, sweeps.Summary(runs))
    sweeps.write_curves(tmp_path / "sweep.png", sweeps.Summary(runs), "reward")
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert written["runs"][0]["values"]["j"] == {"0": 0.5, "1": 0.5}
    assert {row["kind"] for row in written["estimates"]} == {"mean", "difference"}
    assert "| a       | AgeMem | 50.0 ± 0.0 |" in (tmp_path / "sweep.md").read_text()
    assert (tmp_path / "sweep.csv").read_text().startswith("kind,variant,method,metric,mean,low")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_is_over_the_tokens_that_were_sampled(tmp_path):
    sampled, values = make_run(tmp_path, "a", 0, 0.5).curve("reward")
    assert sampled.tolist() == [100, 200, 300] and values.tolist() == [1.5, 2.5, 3.5]


@pytest.mark.parametrize("metric", ["nothing_like_it"])
def test_a_metric_that_no_run_has_gives_an_empty_picture(tmp_path, metric):
    runs = [make_run(tmp_path, "a", 0, 0.5)]
    sweeps.write_curves(tmp_path / "sweep.png", sweeps.Summary(runs), metric)
    assert (tmp_path / "sweep.png").stat().st_size > 0
