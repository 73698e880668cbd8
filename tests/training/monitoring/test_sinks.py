"""Sinks of metrics: what they are given, by which name, and that none of them ends a run."""

import dataclasses
import json
import sys
import types

import pytest

from agemem_jax.training.configuration import run_config, run_record
from agemem_jax.training.configuration.monitoring_config import MetricsConfig
from agemem_jax.training.monitoring.metrics import MetricsWriter, read_metrics
from agemem_jax.training.monitoring.sinks import registry


class Recorder:
    """Remembers all calls of all its instances."""

    calls: list = []

    def __init__(self, *, label: str = "a"):
        self._label = label

    def open(self, run):
        self.calls.append((self._label, "open", run))

    def write(self, step, values, timing):
        self.calls.append((self._label, "write", step, values, timing))

    def close(self):
        self.calls.append((self._label, "close"))


class Failing(Recorder):
    """Fails at the steps of `at`."""

    def __init__(self, *, at: tuple[int, ...] = ()):
        super().__init__(label="failing")
        self._at = at

    def write(self, step, values, timing):
        super().write(step, values, timing)
        if step in self._at:
            raise RuntimeError("The service is away.")


class NoSink:
    pass


@pytest.fixture(autouse=True)
def calls():
    Recorder.calls.clear()
    return Recorder.calls


OURS = f"{__name__}:Recorder"


def test_a_sink_of_ones_own_gets_every_line_with_its_options(tmp_path, calls):
    writer = MetricsWriter(tmp_path, sinks=(OURS, f"{OURS}(label='b')"))
    writer.open(3, {"seed": 7})
    writer.write(4, {"loss": 0.25, "phase": "joint", "kl": float("nan")}, {"seconds": 2.0})
    writer.close()
    assert [call[:2] for call in calls] == [
        ("a", "open"), ("b", "open"), ("a", "write"), ("b", "write"), ("a", "close"),
        ("b", "close"),
    ]  # fmt: skip
    assert calls[0][2] == registry.Run(str(tmp_path), 3, {"seed": 7})
    assert calls[2][2:] == (4, {"loss": 0.25, "phase": "joint", "kl": None}, {"seconds": 2.0})
    assert not (tmp_path / "tensorboard").exists()  # it was not asked for
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == 0.25


def test_a_sink_that_fails_is_told_of_once_and_gets_the_next_line(tmp_path, calls, caplog):
    writer = MetricsWriter(tmp_path, sinks=(f"{__name__}:Failing(at=(1, 3))", OURS))
    for step in (1, 2, 3, 4):
        writer.write(step, {"loss": 0.5}, {})
    writer.close()
    for label in ("failing", "a"):
        assert [c[2] for c in calls if c[:2] == (label, "write")] == [1, 2, 3, 4]
    assert caplog.text.count("failed in write (RuntimeError: The service is away.)") == 1
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4


def test_a_sink_that_keeps_failing_is_left_out(tmp_path, calls, caplog):
    writer = MetricsWriter(tmp_path, sinks=(f"{__name__}:Failing(at={tuple(range(1, 20))})",))
    for step in range(1, 20):
        writer.write(step, {"loss": 0.5}, {})
    writer.close()
    assert [c[2] for c in calls if c[1] == "write"] == [1, 2, 3, 4, 5]
    assert "has failed 5 times in a row and gets nothing any more" in caplog.text
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 19


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tensorbord", "There is no sink 'tensorbord'; .* did you mean 'tensorboard'"),
        (
            "wandb(projct='x')",
            "metrics.sinks, wandb, has no option 'projct'; did you mean 'project",
        ),
        ("wandb(mode='away')", "mode is 'away'; it must be one of online, offline, disabled"),
        (f"{__name__}:Recordr", "has no 'Recordr'"),
        (f"{__name__}:NoSink", "NoSink has no write; a sink has write.step, values, timing. and"),
    ],
)
def test_wrong_sinks_are_refused_in_one_sentence(name, told):
    with pytest.raises(ValueError, match=told):
        MetricsConfig(sinks=("tensorboard", name))


def test_sinks_stand_in_the_record_and_may_be_changed_later(tmp_path):
    config = run_config.from_dict({"metrics": {"sinks": ["wandb(project='x')"]}})
    assert config.metrics.sinks == ("wandb(project='x')",)
    assert run_record.from_values(run_record.as_values(config)) == config
    run_record.write(config, tmp_path, 0)
    run_record.check(dataclasses.replace(config, metrics=MetricsConfig()), tmp_path)


# Weights & Biases.


@pytest.fixture
def wandb(monkeypatch):
    """A module that takes what `wandb` would."""
    module = types.ModuleType("wandb")
    module.begun, module.logged, module.finished = [], [], []
    module.online = True

    class Begun:
        def log(self, values, step):
            module.logged.append((step, values))

        def finish(self):
            module.finished.append(True)

    def init(**options):
        if not module.online:
            raise ConnectionError("no network")
        module.begun.append(options)
        return Begun()

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_gets_numbers_by_step_and_a_resumed_run_is_the_same_one(tmp_path, wandb):
    names = ("wandb(project='memory', group='quick', mode='offline')",)
    for step in (0, 3):
        writer = MetricsWriter(tmp_path / "run", sinks=names)
        writer.open(step, {"seed": 7, "grpo": {"beta": 0.02}})
        writer.write(step + 1, {"loss": 0.5, "phase": "joint", "kl": None}, {"seconds": 2.0})
        writer.close()
    assert wandb.logged == [(1, {"loss": 0.5, "seconds": 2.0}), (4, {"loss": 0.5, "seconds": 2.0})]
    first, second = wandb.begun
    assert first == second and first["resume"] == "allow"
    assert first["id"] == (tmp_path / "run" / "wandb_run_id").read_text()
    assert (first["project"], first["group"], first["mode"]) == ("memory", "quick", "offline")
    assert (first["name"], first["dir"]) == ("run", str(tmp_path / "run"))
    assert first["config"] == {"seed": 7, "grpo": {"beta": 0.02}}
    assert len(wandb.finished) == 2


def test_wandb_that_cannot_be_reached_at_first_is_tried_again(tmp_path, wandb, caplog):
    wandb.online = False
    writer = MetricsWriter(tmp_path, sinks=("wandb",))
    writer.open(0, {})
    writer.write(1, {"loss": 0.5}, {})
    wandb.online = True
    writer.write(2, {"loss": 0.4}, {})
    writer.close()
    assert wandb.logged == [(2, {"loss": 0.4})]
    assert caplog.text.count("failed in open (ConnectionError: no network)") == 1


def test_wandb_that_is_not_installed_is_told_before_anything_begins(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = MetricsConfig(sinks=("wandb",))  # a record can be read without it
    with pytest.raises(ModuleNotFoundError, match=r"the package wandb is not installed; install"):
        MetricsWriter(tmp_path / "run", sinks=config.sinks)
    MetricsWriter(tmp_path / "run", sinks=config.sinks, enabled=False)  # another process of a job
    assert not (tmp_path / "run").exists()


def test_lines_of_evaluations_are_forgotten_by_their_own_step(tmp_path):
    writer = MetricsWriter(tmp_path, sinks=())
    writer.write(0, {"eval/success": 0.1}, {})
    for step in (1, 2):
        writer.write(step, {"loss": 0.5}, {})
        writer.write(step, {"eval/success": 0.1}, {})
    writer.close()

    def left(step, evaluated):
        text = (tmp_path / "metrics.jsonl").read_text()
        MetricsWriter(tmp_path, sinks=()).forget_after(step, evaluated)
        found = [(line["step"], "loss" in line) for line in read_metrics(writer.path)]
        (tmp_path / "metrics.jsonl").write_text(text)
        return found

    assert left(2, 1) == [(0, False), (1, True), (1, False), (2, True)]
    assert left(1, 1) == [(0, False), (1, True), (1, False)]
    assert left(0, -1) == []
    assert all(json.loads(line) for line in writer.path.read_text().splitlines())
