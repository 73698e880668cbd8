"""Evaluation inside training: it looks on, chooses the best, ends a phase, and survives kills."""

import dataclasses
import json

import numpy as np
import pytest
from absl import logging

from agemem_jax.report.growing import GrowingReport
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.training import components
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.checkpoints.parts import SaveFailed
from agemem_jax.training.checkpoints.position import Position
from agemem_jax.training.checkpoints.standing import Standing
from agemem_jax.training.configuration import run_config
from agemem_jax.training.configuration.monitoring_config import SamplesConfig, ValidationConfig
from agemem_jax.training.curriculum import Phase
from agemem_jax.training.interruption import Interrupted
from agemem_jax.training.learner import Outcome
from agemem_jax.training.monitoring.metrics import is_evaluation, read_metrics
from agemem_jax.training.monitoring.throughput import Stopwatch, Work
from agemem_jax.training.monitoring.validation import Validation, validation_tasks
from agemem_jax.training.trainer import Trainer
from tests.training.small_job import small_config

BASE = run_config.RunConfig()


def with_validation(**options):
    return dataclasses.replace(BASE, validation=ValidationConfig(every=1, **options))


# Options, and the tasks.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"every": -1}, "validation.every is -1; it must be 0 or more"),
        ({"tasks": 0}, "validation.tasks is 0; it must be at least 1"),
        ({"every": 0, "patience": 2}, "validation.patience is 2, and validation.every is 0"),
        ({"temperature": -0.5}, "validation.temperature is -0.5"),
        ({"metric": "sucess"}, "validation.metric is 'sucess'; it must be one of success, reward"),
        ({"metric": "reward_brevity"}, "reward_task, reward_context"),
        ({"split": "dev"}, "validation.split is 'dev'; the splits of the tasks are train, valid"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(options, told):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(BASE, validation=ValidationConfig(**{"every": 1, **options}))
    assert told in str(error.value)


def test_a_component_of_the_reward_is_a_metric():
    assert with_validation(metric="reward_memory").validation.metric == "reward_memory"


def test_tasks_are_of_a_split_that_neither_trains_nor_is_evaluated_at_the_end():
    split, tasks = validation_tasks(with_validation(tasks=5))
    assert split == "validation" and len(tasks) == 5
    assert all("validation" in task.task_id for task in tasks)


class Numbered:
    """A source whose tasks are numbers, of two splits only."""

    splits = ("train", "test")

    def __call__(self, split):
        return range(12)


class Sorted(Numbered):
    sorted = True


@pytest.mark.parametrize(
    ("source", "eval_size", "expected"),
    [
        (Numbered, 6, [6, 7, 8, 9]),
        (Sorted, 6, [1, 3, 7, 9]),  # the odd ones, spread
        (Numbered, 10, [10, 11, 0, 1]),  # two are left, and it is said
    ],
)
def test_where_there_is_no_such_split_tasks_of_the_final_evaluation_come_last(
    source, eval_size, expected, monkeypatch, caplog
):
    config = with_validation(tasks=4)
    given = TaskConfig(source, eval_size=eval_size)
    monkeypatch.setattr(
        run_config.RunConfig, "_name_parts", lambda self: None
    )  # a class of a test has no name that a record could hold
    split, tasks = validation_tasks(dataclasses.replace(config, tasks=given))
    assert (split, tasks) == ("test", expected)
    assert ("tasks of the final evaluation, too" in caplog.text) == (eval_size == 10)


# Where a run stands.


def test_the_best_is_the_first_of_its_value_and_patience_counts_from_a_phases_own_best():
    standing = Standing("a")
    for step, value in [(0, 0.2), (2, 0.4), (4, 0.4), (6, None), (8, 0.3)]:
        standing = standing.after(step, value)
    assert (standing.best_step, standing.best_value, standing.evaluated) == (2, 0.4, 8)
    assert standing.without_gain == 2  # the one without a value does not count
    following = standing.in_next_phase().after(10, 0.35)
    assert (following.phase_best, following.without_gain) == (0.35, 0)
    assert following.best_step == 2


def test_values_of_other_settings_are_not_compared():
    record = json.loads(json.dumps(Standing("a").after(3, 0.5).to_record()))
    assert Standing.from_record(record, "a") == Standing("a").after(3, 0.5)
    assert Standing.from_record(record, "b") == Standing("b")


def plan(**iterations):
    return tuple(Phase(n, count, BASE.episode, BASE.rewards) for n, count in iterations.items())


def test_a_phase_that_ended_early_has_ended_and_more_iterations_take_it_up_again():
    (phase,) = phases = plan(joint=9)
    ended = Position({}, 4, 4, standing=Standing("a").after(4, 0.5)).close(phase)
    record = json.loads(json.dumps(ended.to_record()))
    again = Position.from_record(record, phases, "a")
    assert again == ended and again.phase(phases) is None
    assert again.standing.best_step == 4
    longer = plan(joint=10)
    taken_up = Position.from_record(record, longer, "a")
    assert (taken_up.iteration, taken_up.step, taken_up.stopped) == (4, 4, {})
    assert taken_up.phase(longer).name == "joint"
    with pytest.raises(ValueError, match="has ended after 4 iterations.* asks for 5"):
        Position.from_record(record, plan(joint=5), "a")


def test_after_a_phase_that_ended_early_comes_the_next_one():
    first, second = phases = plan(phase1=9, phase2=3)
    position = Position({}, 4, 4).close(first)
    again = Position.from_record(json.loads(json.dumps(position.to_record())), phases)
    assert again.phase(phases) == second


# A run.


@pytest.fixture(scope="module")
def config():
    small = small_config("tiny")
    return dataclasses.replace(
        small,
        warmup=dataclasses.replace(small.warmup, steps=0),
        curriculum=dataclasses.replace(small.curriculum, iterations=(3,), checkpoint_every=1),
        validation=ValidationConfig(every=2, tasks=3, metric="reward", keep_best=True),
        samples=SamplesConfig(every=2, count=1, keep=1),
        evaluation=dataclasses.replace(small.evaluation, bootstrap_samples=50),
    )


@pytest.fixture(scope="module")
def watched(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("watched")
    Trainer(config, workdir, report=GrowingReport(workdir).grow).run()
    return workdir


def lines(workdir, evaluations):
    every = read_metrics(workdir / "metrics.jsonl")
    return [
        {name: value for name, value in line.items() if name != "timing"}
        for line in every
        if is_evaluation(line) == evaluations
    ]


def test_a_run_is_evaluated_before_it_starts_at_its_pace_and_at_its_end(watched):
    found = lines(watched, evaluations=True)
    assert [line["step"] for line in found] == [0, 2, 3]
    for line in found:
        assert line["eval/tasks"] == 3 and line["eval/failed"] == 0
        assert line["eval/reward_low"] <= line["eval/reward"] <= line["eval/reward_high"]
        assert {"eval/success", "eval/reward_memory", "eval/tc/Add_memory"} <= set(line)
    (first, *_) = read_metrics(watched / "metrics.jsonl")
    assert first["timing"]["eval/seconds"] > 0


def test_the_best_weights_are_kept_with_what_they_were_chosen_by(watched, config):
    values = [line["eval/reward"] for line in lines(watched, evaluations=True)]
    steps = [0, 2, 3]
    told = json.loads((watched / "checkpoints" / "best" / "best.json").read_text())
    assert told["step"] == steps[int(np.argmax(values))]
    assert told["metric"] == "reward" and told["value"] == pytest.approx(max(values), rel=1e-5)
    assert told["low"] <= told["value"] <= told["high"]
    checkpoints = Checkpoints(watched / "checkpoints", read_only=True, config=config)
    assert checkpoints.find("best").step == told["step"]
    assert checkpoints.position()["standing"]["best_step"] == told["step"]


def test_training_is_the_same_without_any_of_it(watched, config, tmp_path):
    alone = dataclasses.replace(
        config, validation=ValidationConfig(), samples=SamplesConfig(),
        curriculum=dataclasses.replace(config.curriculum, iterations=(2,)),
    )  # fmt: skip
    Trainer(alone, tmp_path, report=GrowingReport(tmp_path).grow).run()
    assert lines(tmp_path, evaluations=False) == lines(watched, evaluations=False)[:2]
    assert not lines(tmp_path, evaluations=True)
    assert not (tmp_path / "samples").exists() and not (tmp_path / "report.html").exists()
    assert not (tmp_path / "checkpoints" / "best").exists()


def test_a_run_that_goes_back_has_the_best_of_there(watched, config, tmp_path):
    """As after a kill behind a new best: the checkpoint that it goes on from knows an older one."""
    folder = Checkpoints(watched / "checkpoints", read_only=True, config=config)._folder
    before = folder.read_best()
    try:
        other = Checkpoints(watched / "checkpoints", config=config)
        other.go_back_to_best(now=before["step"] - 1, step=None)
        assert folder.best() is None
        other.go_back_to_best(now=3, step=before["step"])
        assert folder.read_best() == before
        other.go_back_to_best(now=3, step=77)  # could not be written then
        assert folder.read_best()["step"] == before["step"]
    finally:
        folder.tell_best(before)


def test_samples_can_be_read_and_are_few(watched, config):
    assert sorted(path.name for path in (watched / "samples").iterdir()) == ["3.jsonl", "3.md"]
    lines = (watched / "samples" / "3.jsonl").read_text().splitlines()
    group = [json.loads(line) for line in lines]
    assert len(group) == config.grpo.group_size, "the rollouts that it is compared with are there"
    assert len({values["task"] for values in group}) == 1
    assert {values["group"] for values in group} == {0}
    values = group[0]
    assert values["reward"]["total"] is not None and "memory" in values["reward"]
    assert len(set(values["advantage"])) == 1, "the same for each step"
    text = (watched / "samples" / "3.md").read_text()
    assert "# Step 3" in text and f"Advantage: {values['advantage'][0]:.2f}." in text
    assert "#### Stage 1" in text and values["task"] in text


def test_the_report_shows_the_run(watched):
    text = (watched / "report.html").read_text()
    assert "trained to step 3" in text and 'id="block-0"' in text
    assert (watched / "figures" / "evaluations.png").exists()


# A run that plays nothing, to see in which order things happen.


@pytest.fixture
def unplayed(config, monkeypatch):
    """`config`, whose iterations change one parameter and whose evaluations read it.

    Evaluations in `raises` are interrupted, once each.
    """
    raises = set()

    def iterate(self, phase):
        while self.position.iteration < phase.iterations:
            norm = self.state.trainable["final_norm"]
            moved = {**norm, "scale": norm["scale"] + 1.0}
            self.state = self.state.replace(trainable={**self.state.trainable, "final_norm": moved})
            clock = Stopwatch()
            with clock.measure("update"):
                outcome = Outcome([], [], Work())
            self._finish_iteration(phase, {}, outcome, clock)

    def run(self, weights, check, agree):
        agree()
        scale = float(weights().params["final_norm"]["scale"][0])
        step = round(scale - start)
        if step in raises:
            raises.remove(step)
            raise Interrupted("now")
        value = VALUES[step]
        values = {"eval/reward_low": 0.0, "eval/reward_high": 1.0, "eval/tasks": 3}
        return value, {"eval/reward": value, **values}, {"eval/seconds": 0.0}

    params = components.build_backbone(config).params
    start = float(params["final_norm"]["scale"][0])
    monkeypatch.setattr(Trainer, "_run_grpo", iterate)
    monkeypatch.setattr(Validation, "run", run)
    return config, raises


VALUES = [0.3, 0.6, 0.5, 0.6, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1]


def long_run(config, **options):
    return dataclasses.replace(
        config,
        validation=dataclasses.replace(config.validation, every=1, **options),
        curriculum=dataclasses.replace(config.curriculum, iterations=(9,)),
    )


def kept(workdir):
    best = workdir / "checkpoints" / "best"
    told = json.loads((best / "best.json").read_text())
    return told["step"], sorted(path.name for path in best.iterdir() if path.is_dir())


@pytest.mark.parametrize("stopped_at", [0, 3, 9])
def test_a_run_that_is_stopped_in_an_evaluation_makes_it_again(unplayed, tmp_path, stopped_at):
    config, raises = unplayed
    config = long_run(config)
    raises.add(stopped_at)
    with pytest.raises(Interrupted):
        Trainer(config, tmp_path).run()
    assert not raises
    Trainer(config, tmp_path).run()
    found = lines(tmp_path, evaluations=True)
    assert [line["step"] for line in found] == list(range(10))
    assert [line["eval/reward"] for line in found] == VALUES
    assert [line["step"] for line in lines(tmp_path, evaluations=False)] == list(range(1, 10))
    assert kept(tmp_path) == (4, ["1", "4"])


def test_what_was_the_best_stays_while_a_run_may_go_back_to_it(unplayed, tmp_path):
    config, raises = unplayed
    raises.add(5)
    with pytest.raises(Interrupted):
        Trainer(long_run(config), tmp_path).run()
    # The checkpoints of steps 4 and 5 are kept, and one more was there when 4 became the best.
    assert kept(tmp_path) == (4, ["1", "4"])
    folder = Checkpoints(tmp_path / "checkpoints", read_only=True)._folder
    (newest, before) = folder.all()
    assert (newest.step, before.step) == (5, 4)


def test_a_phase_without_gain_ends_early_with_its_checkpoint(unplayed, tmp_path, monkeypatch):
    stops, told = long_run(unplayed[0], patience=2), []
    monkeypatch.setattr(logging, "info", lambda text, *values: told.append((text, values)))
    Trainer(stops, tmp_path).run()
    (early,) = [text % values for text, values in told if "ends early" in text]
    assert "Phase joint ends early, after 3 of 9 iterations: in 2 evaluations" in early
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True, config=stops)
    assert checkpoints.find("joint").step == 3
    again = Trainer(stops, tmp_path)
    again.restore()
    assert again.position.phase(again.phases) is None
    assert kept(tmp_path)[0] == 1


def test_weights_that_cannot_be_kept_cost_no_run(unplayed, tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise SaveFailed("The disk is full.")

    monkeypatch.setattr(Checkpoints, "save_best", fail)
    Trainer(long_run(unplayed[0]), tmp_path).run()
    assert "The best weights so far are not kept: The disk is full." in caplog.text
    assert len(lines(tmp_path, evaluations=True)) == 10
