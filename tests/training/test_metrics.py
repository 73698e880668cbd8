"""A disk that takes nothing for a while costs no line of metrics."""

import json
import pathlib

from agemem_jax.training.metrics import MetricsWriter, read_metrics


def test_lines_that_the_disk_does_not_take_are_written_with_the_next_ones(tmp_path, monkeypatch):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 0.5}, {})
    before = pathlib.Path.open

    class HalfFull:
        """Takes half of what is written, then fails as a full disk does."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, text):
            self.file.write(text[: len(text) // 2])
            self.file.flush()
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", lambda self, mode: HalfFull(before(self, mode)))
        writer.write(2, {"loss": 0.4}, {})
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    writer.write(3, {"loss": 0.3}, {})
    writer.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    for text in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(text)


def test_only_the_enabled_writer_of_a_job_writes(tmp_path):
    writer = MetricsWriter(tmp_path / "other", enabled=False)
    writer.write(1, {"loss": 0.5}, {})
    writer.forget_after(0)
    writer.close()
    assert not (tmp_path / "other").exists()
