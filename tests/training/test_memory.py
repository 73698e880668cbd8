"""What of a run lives in memory: at the start, at a resume, and in between."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import pytest

from agemem_jax.evaluation.evaluate import Evaluator
from agemem_jax.rollout import player
from agemem_jax.training import learner, train_state
from agemem_jax.training.interruption import Interrupted
from agemem_jax.training.train_state import OptimizerConfig
from agemem_jax.training.trainer import Trainer
from tests import small_models
from tests.training.checkpoints.test_checkpoints import truncate
from tests.training.small_job import PeakOfLiveBytes, StopAt, live_bytes, small_config

# Master weights, Adam's two averages and a reference, and a little for all that is small.
MOST = 4.2


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A directory with a model of 17 MB, beside which caches and batches are small."""
    sizes = {"hidden_size": 256, "intermediate_size": 2048}
    return str(small_models.write_model(tmp_path_factory.mktemp("model"), "qwen2", **sizes))


@pytest.fixture(autouse=True)
def nothing_else_lives():
    gc.collect()
    jax.clear_caches()


def nbytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def play(config, workdir, stop_at=99):
    """Trains; returns the trainer, the peak of all that lived, and what lived at each update."""
    interruption, updated = StopAt(stop_at), []
    with pytest.MonkeyPatch.context() as patch, PeakOfLiveBytes() as watch:
        for name in ("imitate", "improve"):
            step = getattr(learner.Learner, name)

            def watched(self, *arguments, step=step):
                watch.look()
                result = step(self, *arguments)
                updated.append(live_bytes())
                return result

            patch.setattr(learner.Learner, name, watched)
        trainer = interruption.trainer = Trainer(config, workdir, interruption)
        try:
            trainer.run()
        except Interrupted:
            pass
    return trainer, watch.peak, updated


def test_a_run_never_holds_more_than_its_training_state(backbone, tmp_path):
    """From the first line on, through warm-up and its end, rollouts and updates, and resumed."""
    config = small_config(backbone)
    gc.collect()
    before = live_bytes()
    trainer, peak, updated = play(config, tmp_path, stop_at=2)
    params = nbytes(trainer.state.trainable)
    assert params > 15e6
    assert len(updated) == 2
    assert max(updated) - before <= MOST * params
    assert peak - before <= MOST * params
    assert nbytes(trainer.state.reference) == params
    del trainer

    gc.collect()
    resumed, peak, updated = play(config, tmp_path)
    assert resumed.position.step == 3
    assert len(updated) == 1
    assert updated[0] - before <= MOST * params
    assert peak - before <= MOST * params


def save(config, workdir, step=0):
    """A run that has saved what it starts with; returns bytes of its trained and frozen part."""
    trainer = Trainer(config, workdir)
    state, _ = trainer.restore()
    position = {"ended": {}, "iteration": step, "step": step}
    trainer.checkpoints.save(step, state, trainer.iterator, position)
    trainer.checkpoints.close()
    return nbytes(state.trainable), nbytes(state.frozen)


def test_resuming_full_training_does_not_read_the_backbone_s_files(backbone, tmp_path):
    config = small_config(backbone)
    save(config, tmp_path)

    def forbidden():
        raise AssertionError("the files were read")

    again = Trainer(config, tmp_path)
    object.__setattr__(again.backbone, "read_params", forbidden)
    restored, _ = again.restore()
    assert train_state.weights(restored).lora is None


def test_lora_holds_its_base_once(backbone, tmp_path):
    config = small_config(backbone, lora_rank=4)
    gc.collect()
    before = live_bytes()
    with PeakOfLiveBytes() as watch:
        lora, base = save(config, tmp_path)
    assert lora < base / 20
    assert base + 4 * lora <= watch.peak - before <= 1.1 * base + MOST * lora
    gc.collect()
    with PeakOfLiveBytes() as watch:
        state, _ = Trainer(config, tmp_path).restore()
        watch.look()
    assert nbytes(state.frozen) == base
    assert watch.peak - before <= 1.1 * base + MOST * lora


@pytest.mark.parametrize("part", ["trainable", "training"])
def test_what_was_read_of_a_damaged_checkpoint_is_gone_before_the_next_is_read(
    backbone, tmp_path, part
):
    config = small_config(backbone)
    params, _ = save(config, tmp_path)
    save(config, tmp_path, step=1)
    (tmp_path / "checkpoints" / "manifests" / "steps-1.json").unlink()  # or none of it is read
    truncate(tmp_path / "checkpoints" / "steps" / "1" / part)
    gc.collect()
    before = live_bytes()
    with PeakOfLiveBytes() as watch:
        state, position = Trainer(config, tmp_path).restore()
        watch.look()
    assert position.step == 0
    assert nbytes(state.trainable) == params
    assert watch.peak - before <= MOST * params


@pytest.mark.parametrize("trained", [True, False])
def test_an_evaluation_holds_the_weights_that_it_plays_with_and_no_others(
    backbone, tmp_path, trained
):
    config = small_config(backbone)
    params, _ = save(config, tmp_path)
    gc.collect()
    before = live_bytes()
    evaluator = Evaluator(config, tmp_path)
    with PeakOfLiveBytes() as watch:
        weights = evaluator.weights(trained)
        watch.look()
    assert nbytes(weights) == params
    assert params <= watch.peak - before <= 1.1 * params


def test_an_engine_with_weights_of_its_own_is_alone_with_them(backbone, tmp_path, monkeypatch):
    """Of a policy that it has stacked, the copy that was read is let go of."""
    config = small_config(backbone)
    engine = dataclasses.replace(config.engine, weights="stacked")
    config = dataclasses.replace(config, engine=engine)
    params, _ = save(config, tmp_path)
    evaluator, found = Evaluator(config, tmp_path), []
    gc.collect()
    before = live_bytes()
    monkeypatch.setattr(player, "run_episodes", lambda *_: found.append(live_bytes() - before))
    plays = evaluator._player
    plays.play(evaluator.weights(True), [], plays.rules(config.episode), 1.0)
    assert params <= found[0] <= 1.2 * params  # the cache is the rest


def test_parameters_in_bfloat16_are_let_go_of_one_by_one(tiny_decoder_config):
    """As they become float32 masters; together they would be half as much again."""
    params = {str(index): jnp.ones((64, 1024), jnp.bfloat16) for index in range(16)}
    before = live_bytes() - nbytes(params)
    peaks = []
    copy = train_state._copy

    def watched(leaf, dtype):
        copied = copy(leaf, dtype)
        peaks.append(live_bytes() - before)
        return copied

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_state, "_copy", watched)
        masters = train_state._as_master(params, donate=True)
    largest = nbytes(masters) // 16
    assert max(peaks) <= nbytes(masters) + largest
    assert all(leaf.is_deleted() for leaf in params.values())


def test_a_restart_makes_room_before_it_fills_it(tiny_decoder_config):
    """Old averages and the old reference are gone when new ones are made."""
    params = {"w": jnp.ones((256, 1024))}
    state = train_state.create(
        tiny_decoder_config, params, OptimizerConfig(), keep_reference=True,
        key=jax.random.key(0), donate=True,
    )  # fmt: skip
    gc.collect()
    held = live_bytes()
    with PeakOfLiveBytes() as watch:
        old, state = (
            state,
            train_state.restart(tiny_decoder_config, state, OptimizerConfig(), keep_reference=True),
        )
    assert watch.peak <= held + 1e4
    assert old.reference["w"].is_deleted()
