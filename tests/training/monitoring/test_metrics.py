"""A disk that takes nothing for a while costs no line of metrics."""

import json

import fsspec

from agemem_jax.training.monitoring.metrics import MetricsWriter, read_metrics
from tests.training.conftest import fill


def test_lines_that_the_disk_does_not_take_are_written_with_the_next_ones(small_disk):
    long = {f"name{number}": 0.5 for number in range(1000)}  # past the page that is there
    writer = MetricsWriter(small_disk)
    writer.write(1, long, {})
    filler = fill(small_disk)
    writer.write(2, long, {})
    assert [line["step"] for line in read_metrics(small_disk / "metrics.jsonl")] == [1]
    filler.unlink()
    writer.write(3, long, {})
    writer.close()
    assert [line["step"] for line in read_metrics(small_disk / "metrics.jsonl")] == [1, 2, 3]
    assert list((small_disk / "tensorboard").glob("events*"))
    for text in (small_disk / "metrics.jsonl").read_text().splitlines():
        json.loads(text)


def test_a_bucket_takes_the_whole_file_anew(tmp_path, monkeypatch):
    fsspec.register_implementation("gs", fsspec.get_filesystem_class("memory"), clobber=True)
    fsspec.register_implementation("gcs", fsspec.get_filesystem_class("memory"), clobber=True)
    writer = MetricsWriter("gs://bucket/run")
    for step in (1, 2, 3):
        writer.write(step, {"loss": 0.5}, {})
    writer.close()
    again = MetricsWriter("gs://bucket/run")
    again.forget_after(2)
    again.write(3, {"loss": 0.4}, {})
    again.close()
    lines = read_metrics("gs://bucket/run/metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 0.5), (3, 0.4)]


def test_only_the_enabled_writer_of_a_job_writes(tmp_path):
    writer = MetricsWriter(tmp_path / "other", enabled=False)
    writer.write(1, {"loss": 0.5}, {})
    writer.forget_after(0)
    writer.close()
    assert not (tmp_path / "other").exists()
