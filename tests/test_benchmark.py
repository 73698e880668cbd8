"""The benchmark's report: which way a ratio goes, and what a reader sees of it."""

import gzip
import json
import pathlib
import subprocess
import sys

import pytest

from experiments.benchmarks import reports
from experiments.benchmarks.timing import Case, Timing

ROOT = pathlib.Path(__file__).parents[1]


def test_a_ratio_above_one_means_that_ours_is_ahead():
    fast, slow = Timing((3.0, 4.0, 50.0), "tokens/s"), Timing((2.0,), "tokens/s")
    assert Case("rate", fast).ratio(slow) == 2.0  # medians, so that one outlier changes nothing
    short, long = Timing((1.0,)), Timing((4.0,))
    assert Case("time", short).ratio(long) == 4.0
    with pytest.raises(ValueError, match="time: s cannot be compared with tokens/s"):
        Case("time", short).ratio(fast)


def test_the_table_holds_every_peer_the_limit_and_what_was_wanted():
    case = Case(
        "decode", Timing((30.0,), "tokens/s"), {"other": Timing((10.0,), "tokens/s")},
        limit=Timing((60.0,), "tokens/s"), wanted={"other": 2.5, "limit": 0.6}, note="alone",
    )  # fmt: skip
    text = reports.markdown({"machine": {"cores": 2}, "suites": {"decode": [case]}})
    assert (
        "| decode | 30 (30 to 30) tokens/s | other: 10 (10 to 10) tokens/s | 3.00 | 2.5 |" in text
    )
    assert "| | | limit: 60 (60 to 60) tokens/s | 0.50 | 0.6 |" in text
    assert "- cores: 2" in text and "- decode: alone" in text


def test_a_suite_runs_and_writes_its_report_and_a_trace(tmp_path):
    command = [
        sys.executable, str(ROOT / "experiments" / "benchmark.py"), "--suites=memory",
        "--repeats=1", f"--output={tmp_path}", f"--trace={tmp_path / 'trace'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "benchmark.json").read_text())
    small, large = report["suites"]["memory"]
    assert min(small["ours"]["values"]) > 0 and "100000 entries" in large["name"]
    assert "top 5 of 4096 entries" in (tmp_path / "benchmark.md").read_text()
    (path,) = tmp_path.glob("trace/**/*.trace.json.gz")  # the format that Perfetto opens
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    lasting = [event for event in events if event.get("ph") == "X"]
    assert all({"name", "pid", "tid", "ts", "dur"} <= event.keys() for event in lasting)
    assert any("dot" in event["name"] for event in lasting), "the device's work must be in it"


def test_an_unknown_suite_is_refused_in_a_sentence(tmp_path):
    command = [
        sys.executable, str(ROOT / "experiments" / "benchmark.py"), "--suites=speed",
        f"--output={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "No suite is called 'speed'; known: decode" in done.stderr
    assert "Traceback" not in done.stderr
