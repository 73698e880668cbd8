"""The report of a run that trains: now and then, and never in its way."""

from agemem_jax.report import growing
from agemem_jax.report.growing import GrowingReport
from agemem_jax.report.write import FILE, try_to_write_report
from tests.report import builders


def test_it_takes_a_small_share_of_the_time_whatever_it_takes(monkeypatch, tmp_path):
    now, written = [0.0], []

    def write(workdir):
        written.append(now[0])
        now[0] += 2.0

    monkeypatch.setattr(growing, "try_to_write_report", write)
    report = GrowingReport(tmp_path, clock=lambda: now[0])
    while now[0] < 1000:
        report.grow()
        now[0] += 10.0
    report.grow(last=True)
    assert written[0] == 0.0 and written[-1] >= 1000
    gaps = [b - a for a, b in zip(written[:-1], written[1:-1], strict=False)]
    assert all(102 <= gap <= 114 for gap in gaps), written


def test_it_shows_what_has_come_since(tmp_path):
    builders.sample(tmp_path, 1, [builders.played()], [None])
    report = GrowingReport(tmp_path)
    report.grow()
    assert "1 trajectory<" in (tmp_path / FILE).read_text()
    builders.sample(tmp_path, 3, [builders.played()], [None])
    report.grow(last=True)
    assert "2 trajectories<" in (tmp_path / FILE).read_text()


def test_what_goes_wrong_is_logged_and_nothing_else(tmp_path, caplog):
    assert try_to_write_report(tmp_path / "nothing") is None
    assert "holds no metrics.jsonl" in caplog.text
    builders.sample(tmp_path, 1, [builders.played()], [None])
    (tmp_path / FILE).mkdir()  # in the way
    assert try_to_write_report(tmp_path) is None
    assert caplog.text.count("The report was not written") == 2
