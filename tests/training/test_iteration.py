"""What an iteration of a small run writes, logs and measures."""

import pathlib
import re
import struct

import numpy as np
import pytest
from absl import logging
from tensorboardX.proto.event_pb2 import Event

from agemem_jax.training.credit_assignment import Credited
from agemem_jax.training.monitoring.metrics import read_metrics
from agemem_jax.training.trainer import Trainer
from tests.training.small_job import small_config, with_larger_caches

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Work directory and log of a step of warm-up and two iterations.

    Of the first one everything is trained on, in two minibatches, of the second one nothing.
    """
    workdir, logged = tmp_path_factory.mktemp("run"), []
    small = small_config("tiny")
    config = with_larger_caches(small)
    config = type(config)(**{**vars(config), "warmup": small.warmup})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging, "info", lambda text, *values: logged.append((text, values)))
        trainer = Trainer(config, workdir)
        chosen = trainer._advantages

        def advantages(*arguments):
            if trainer.position.iteration:
                return Credited([], np.zeros(0), {}, 0)
            return chosen(*arguments)

        patch.setattr(trainer, "_advantages", advantages)
        trainer.run()
    return workdir, [text % values for text, values in logged if isinstance(text, str) and values]


@pytest.fixture(scope="module")
def lines(run):
    return read_metrics(run[0] / "metrics.jsonl")


def documented():
    """Of every name in docs/metrics.md: whether it is one of "timing", and where it is written."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    values, timing = text.split("Under `timing`")
    row = re.compile(r"^\| `([^`]+)` \| (\w+) \|", re.MULTILINE)
    return {
        (is_timing, name): written
        for is_timing, part in ((False, values), (True, timing))
        for name, written in row.findall(part)
    }


def test_every_metric_is_documented_and_every_documented_one_is_written(lines):
    found = {"warmup": set(), "joint": set()}
    for line in lines[:2]:
        found[line["phase"]] |= {(False, name) for name in line if name != "timing"}
        found[line["phase"]] |= {(True, name) for name in line["timing"]}
    table = documented()
    patterns = [name.split("/")[0] + "/" for _, name in table if "/" in name]
    for phase, names in found.items():
        wanted = {"warmup": {"both"}, "joint": {"both", "GRPO"}}[phase]
        always = {key for key, written in table.items() if written in wanted}
        assert always <= names
        rest = {key for key in names - always if not key[1].startswith(tuple(patterns))}
        assert all(table.get(key) == "sometimes" for key in rest), rest


def test_names_that_are_written_only_sometimes_are_in_the_source():
    rooms = [ROOT / "agemem_jax" / name for name in ("training", "rewards")]
    source = "".join(path.read_text() for room in rooms for path in room.rglob("*.py"))
    names = [name for (_, name), written in documented().items() if written == "sometimes"]
    assert len(names) == 21
    for name in names:
        written = (f'"{name}"', f'f"{name.split("/")[0]}/{{', f'f"{name.removesuffix("NAME")}{{')
        assert any(each in source for each in written), name


def test_tokens_that_are_not_trained_on_were_sampled_all_the_same(lines):
    _, trained, dropped = lines
    assert trained["sampled_tokens"] == trained["target_tokens"] > 0
    assert dropped["sampled_tokens"] > 0 == dropped["target_tokens"] == dropped["packed_tokens"]
    assert dropped["updates"] == dropped["skipped"] == 0
    for line in (trained, dropped):
        rate = line["sampled_tokens"] / line["timing"]["rollout_seconds"]
        assert line["timing"]["sampled_tokens_per_second"] == pytest.approx(rate, rel=1e-4)


def test_a_line_tells_of_all_updates_and_of_the_last_rate(lines):
    warmup, trained, _ = lines
    assert (warmup["updates"], trained["updates"]) == (1, 2)
    # tiny rises over two steps to 3e-4: the second update of the phase has two thirds of it.
    assert trained["learning_rate"] == pytest.approx(2e-4)
    assert trained["grad_norm"] <= trained["grad_norm_max"]
    assert trained["ratio_max"] > 1.0  # only the second update's policy is not the one that sampled
    assert trained["sampling_gap_max"] < 1e-4


def test_seconds_are_told_apart_and_fit_into_the_whole(lines):
    for line in lines:
        parts = {k: v for k, v in line["timing"].items() if k.endswith("_seconds")}
        assert sum(parts.values()) <= line["timing"]["seconds"] * 1.001
        assert sum(parts.values()) >= line["timing"]["seconds"] * 0.5


def test_components_add_up_to_the_rewards_that_they_are_parts_of(lines):
    for line in lines[1:]:
        context = ("compression", "preventive", "preservation")
        memory = ("storage", "maintenance", "relevance")
        for name, parts in (("context", context), ("memory", memory)):
            mean = np.mean([line[f"reward_{part}"] for part in parts])
            assert line[f"reward_{name}"] == pytest.approx(mean, abs=1e-5)


def read_events(folder):
    """Events with values; in the file each stands between its length and two checksums."""
    for path in folder.glob("events*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            if event.summary.value:
                yield event
            data = data[16 + length :]


def test_tensorboard_has_the_same_numbers_under_the_same_names(run, lines):
    events = list(read_events(run[0] / "tensorboard"))
    numbers = {
        name
        for line in lines
        for name, value in [*line.items(), *line["timing"].items()]
        if isinstance(value, int | float) and name != "step"
    }
    assert {value.tag for event in events for value in event.summary.value} == numbers
    told = {value.tag: value.simple_value for value in events[1].summary.value}
    assert events[1].step == 2
    assert told["sampled_tokens"] == lines[1]["sampled_tokens"]
    assert told["reward_storage"] == pytest.approx(lines[1]["reward_storage"])


def test_a_run_says_at_its_start_what_it_is_about_to_do(run):
    workdir, logged = run
    (banner,) = [text for text in logged if "devices " in text]
    told = dict(line.strip().split("  ", 1) for line in banner.strip().splitlines())
    told = {name: text.strip() for name, text in told.items()}
    assert told["devices"].startswith("1 x cpu")
    assert "787,584 parameters, all trained" in told["backbone"]
    assert "reference float32" in told["dtypes"]
    assert told["backend"].startswith("cpu (auto); attention ")
    assert told["tasks"].startswith("multihop: 100,000 to train on")
    assert told["phases"] == "warmup: 1 x 2 demonstrations; joint: 2 x 1 tasks x 2 rollouts"
    assert str(workdir) in told["workdir"]
    assert str(workdir / "checkpoints") in told["checkpoints"]
    assert told["starts"] == "from the beginning"
