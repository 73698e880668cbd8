"""All options of the update and of sampling together, in a run that is killed and taken up."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from agemem_jax.training import trainer as trainer_lib
from agemem_jax.training.configuration import run_config
from agemem_jax.training.interruption import Interrupted, Interruption
from agemem_jax.training.monitoring.metrics import read_metrics
from agemem_jax.training.trainer import Trainer
from tests.training.small_job import small_config

OPTIONS = {
    "clip_low": 0.2, "clip_high": 0.28, "clip_dual": 3.0, "log_ratio_clamp": 10.0,
    "normalisation": "constant", "entropy_weight": 1e-3, "baseline": "leave_one_out",
    "normalise_std": False, "max_resample_rounds": 3, "correction": "truncate",
    "correction_level": "sequence", "renew_reference_every": 2, "minibatches": 2,
}  # fmt: skip


class StopInRound(Interruption):
    """Asks the run to stop while it plays round `number` of its iteration behind `step`."""

    def __init__(self, step=None, number=0):
        super().__init__()
        self.at, self.now = (step, number), None

    @property
    def asked(self) -> bool:
        return self.now == self.at


@pytest.fixture(scope="module")
def config():
    config = small_config("tiny")
    values = dataclasses.asdict(config)
    values["grpo"] |= OPTIONS
    values["optimizer"] |= {"schedule": "linear", "warmup_steps": 0}
    values["warmup"]["steps"] = 0
    values["curriculum"] |= {"iterations": (3,), "checkpoint_every": 1}
    options = {"buffer": 8, "limit": None}
    values["rewards"]["components"]["overlong"] = {
        "function": "overlong", "weight": 0.5, "options": options,
    }  # fmt: skip
    return run_config.from_dict(values)


@pytest.fixture(scope="module")
def play(config):
    def play(workdir, interruption=None):
        """A run in which every other round of an iteration has no variance."""
        interruption = interruption or StopInRound()
        played, renewed = [], []
        with pytest.MonkeyPatch.context() as patch:
            trainer = Trainer(config, workdir, interruption)
            own = Trainer._play

            def play_round(self, phase, clock, number):
                interruption.now = (self.position.step, number)
                played.append((self.position.step, number))
                state = self.state
                if same_bits(state.reference, state.trainable) and not number:
                    renewed.append(self.position.step)
                return own(self, phase, clock, number)

            def rewards(trajectories, config, judge):
                step, number = played[-1]
                even = (step + number) % 2 == 0
                return [
                    types.SimpleNamespace(
                        total=1.0 if even else float(index),
                        components={"task": 0.0, "overlong": 0.0}, parts={},
                    )
                    for index in range(len(trajectories))
                ]  # fmt: skip

            patch.setattr(Trainer, "_play", play_round)
            patch.setattr(trainer_lib, "compute_rewards", rewards)
            try:
                trainer.run()
            except Interrupted:
                pass
        return trainer, played, renewed

    return play


@pytest.fixture(scope="module")
def undisturbed(play, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    trainer, played, renewed = play(workdir)
    lines = read_metrics(workdir / "metrics.jsonl")
    return types.SimpleNamespace(trainer=trainer, played=played, renewed=renewed, lines=lines)


def same_bits(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all((np.asarray(a) == np.asarray(b)).all() for a, b in pairs)


def test_every_iteration_trains_on_a_group_with_variance_and_tells_of_the_others(undisturbed):
    played, lines = undisturbed.played, undisturbed.lines
    assert played == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
    assert [line["groups_sampled"] for line in lines] == [2, 1, 2]
    assert [line["groups_zero_variance"] for line in lines] == [1, 0, 1]
    assert [line["groups_dropped"] for line in lines] == [1, 0, 1]
    assert all(line["updates"] == 2 and not line["skipped"] for line in lines)
    assert all(line["sampled_tokens"] > line["target_tokens"] for line in lines[::2])


def test_each_round_plays_tasks_of_its_own(undisturbed):
    trainer, played = undisturbed.trainer, undisturbed.played
    assert trainer.iterator.get_state() == {"tasks": len(played)}


def test_float32_rollouts_and_scores_agree_so_that_nothing_is_corrected(undisturbed):
    lines = undisturbed.lines
    for line in lines:
        assert line["correction_mean"] == pytest.approx(1.0, abs=1e-4)
        assert line["correction_max"] == pytest.approx(1.0, abs=1e-3)
        assert line["correction_share"] == 0.0
        assert 0.0 <= line["sampling_kl"] < 1e-8


def test_the_reference_is_renewed_when_it_is_time(undisturbed):
    """The third iteration begins with the policy as the reference, the second does not."""
    assert undisturbed.renewed == [0, 2]
    assert undisturbed.lines[1]["kl"] > 0.0


def test_nothing_is_compiled_again(undisturbed):
    trainer = undisturbed.trainer
    assert trainer.learner._grpo_update.cache_size() == 1
    assert trainer.learner._score._jitted._cache_size() == 1


def test_the_rate_falls_along_its_line(undisturbed):
    lines = undisturbed.lines
    peak = 3e-4
    wanted = [peak * (1 - 0.9 * updates / 6) for updates in (1, 3, 5)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(wanted, rel=1e-4)


def test_a_run_that_was_stopped_between_rounds_ends_as_one_that_was_not(
    play, undisturbed, tmp_path
):
    """With the same tasks in the same rounds, parameters and reference to the bit."""
    stop = (2, 1)
    stopped, played, _ = play(tmp_path, StopInRound(*stop))
    assert played[-1] == stop and stopped.position.step == stop[0]
    again, rest, _ = play(tmp_path)
    expected = undisturbed.trainer
    assert rest == [each for each in undisturbed.played if each[0] >= stop[0]]
    assert again.iterator.get_state() == expected.iterator.get_state()
    assert same_bits(again.state.trainable, expected.state.trainable)
    assert same_bits(again.state.reference, expected.state.reference)
    told = read_metrics(tmp_path / "metrics.jsonl")
    strip = [{k: v for k, v in line.items() if k != "timing"} for line in told]
    assert strip == [{k: v for k, v in line.items() if k != "timing"} for line in undisturbed.lines]
