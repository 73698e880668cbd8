"""A memory system is trained as AgeMem is: every call of its pipeline is a step with a gradient."""

import dataclasses
import zlib

import jax
import numpy as np
import pytest

from agemem_jax.training.configuration import run_config
from agemem_jax.training.monitoring.metrics import read_metrics
from agemem_jax.training.trainer import Trainer
from tests.training.small_job import small_config


def varied(trajectory, judge):
    """Another value for other responses, whatever they are worth."""
    return zlib.crc32(repr([entry.text for entry in trajectory.transcript]).encode()) / 2**32


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    values = dataclasses.asdict(small_config("tiny"))
    values |= {"method": "mem0"}
    values["warmup"]["steps"] = 0
    values["curriculum"]["iterations"] = (2,)
    values["rewards"]["components"] = {
        "varied": {"function": f"{__name__}:varied", "weight": 1.0, "options": {}}
    }
    config = run_config.from_dict(values)
    trainer, played = Trainer(config, workdir), []
    play = trainer.player.play
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trainer.player, "play", lambda *args, **options: played.append(play(*args, **options))
            or played[-1],
        )  # fmt: skip
        trainer.run()
    return trainer, played, read_metrics(workdir / "metrics.jsonl")


def test_the_pipelines_own_calls_are_trained_and_the_weights_change(run):
    trainer, played, lines = run
    for trajectory in played[0]:
        steps = {int(i) for s in trajectory.segments for i in s.step_index if i >= 0}
        assert steps == set(range(trajectory.num_steps))
        purposes = [entry.role for entry in trajectory.transcript if entry.stage == 1]
        assert purposes.count("extract") == len(trajectory.task.messages)
    assert [line["grad_norm"] > 0 for line in lines] == [True, True]
    same = jax.tree.map(np.array_equal, trainer.state.reference, trainer.state.trainable)
    assert not any(jax.tree.leaves(same))
