"""Checkpoints: bit for bit back, and honest about damage."""

import dataclasses
import pathlib

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from agemem_jax.training import train_state
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.checkpoints.parts import SaveFailed
from agemem_jax.training.train_state import OptimizerConfig
from tests.training.conftest import fill


def make_state(config, step=0, width=6):
    key = jax.random.key(11)
    params = {
        "w": jax.random.normal(key, (4, width)) + step,
        "norm": {"scale": jnp.full((width,), 1.5 + step)},
    }
    state = train_state.create(
        config, params, OptimizerConfig(), keep_reference=True, key=jax.random.fold_in(key, step)
    )
    return state.replace(step=jnp.asarray(step, jnp.int32))


def make_iterator(taken=0):
    data = grain.MapDataset.range(1000).shuffle(seed=3).repeat().batch(2).to_iter_dataset()
    iterator = iter(data)
    for _ in range(taken):
        next(iterator)
    return iterator


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    return max(
        (p for p in pathlib.Path(folder).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )


def truncate(folder: pathlib.Path) -> None:
    """Cuts every file to half its length, as a full disk or a lost cache may."""
    for path in [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def messages(monkeypatch):
    """What is logged as an error."""
    found = []
    monkeypatch.setattr(logging, "error", lambda text, *values: found.append(text % values))
    return found


@pytest.fixture
def run(tmp_path, tiny_decoder_config):
    """A run with checkpoints at steps 1 to 3, the data iterator as many batches on."""
    checkpoints = Checkpoints(tmp_path / "run", keep=3)
    iterator = make_iterator()
    for step in (1, 2, 3):
        next(iterator)
        checkpoints.save(
            step, make_state(tiny_decoder_config, step), iterator, {"phase": 1, "iteration": step}
        )
    yield checkpoints
    checkpoints.close()


def reopen(checkpoints):
    return Checkpoints(checkpoints.directory, keep=3)


def test_everything_comes_back_bit_for_bit(run, tiny_decoder_config):
    iterator = make_iterator()
    state, position = reopen(run).restore_latest(make_state(tiny_decoder_config), iterator)
    expected = make_state(tiny_decoder_config, 3)
    assert_same_bits(state, expected)
    np.testing.assert_array_equal(
        jax.random.uniform(state.key, (3,)), jax.random.uniform(expected.key, (3,))
    )
    assert position == {"phase": 1, "iteration": 3}
    following = make_iterator(taken=3)
    for _ in range(3):
        np.testing.assert_array_equal(next(iterator), next(following))


def test_an_abstract_template_is_enough(run, tiny_decoder_config):
    template = jax.eval_shape(lambda: make_state(tiny_decoder_config))
    state, _ = reopen(run).restore_latest(template)
    assert_same_bits(state, make_state(tiny_decoder_config, 3))


def test_a_run_without_checkpoints_has_nothing_to_restore(tmp_path, tiny_decoder_config):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.latest() is None
    assert checkpoints.restore_latest(make_state(tiny_decoder_config)) is None
    assert not (tmp_path / "none").exists()


def test_only_the_newest_inside_a_phase_are_kept_and_every_phase_end(run, tiny_decoder_config):
    state = make_state(tiny_decoder_config)
    run.save(4, state, phase_end="phase1")
    for step in (4, 5, 6):
        run.save(step, state)
    run.save(6, state, phase_end="phase2")
    found = [(info.step, info.phase) for info in run.all()]
    assert found == [
        (6, "phase2"), (6, None), (5, None), (4, "phase1"), (4, None),
    ]  # fmt: skip
    kept = {path.name for path in (run.directory / "manifests").iterdir()}
    assert len(kept) == 5


def test_the_end_of_a_phase_can_be_read_by_its_name(run, tiny_decoder_config):
    run.save(3, make_state(tiny_decoder_config, 30), make_iterator(), {"at": 2}, phase_end="one")
    run.save(4, make_state(tiny_decoder_config, 4))
    state, position = reopen(run).restore_phase("one", make_state(tiny_decoder_config))
    assert_same_bits(state, make_state(tiny_decoder_config, 30))
    assert position == {"at": 2}
    with pytest.raises(FileNotFoundError, match="No phase named 'two'.*phases that have: one"):
        run.restore_phase("two", make_state(tiny_decoder_config))


def test_evaluation_can_read_the_trained_weights_alone(run, tiny_decoder_config):
    reader = Checkpoints(run.directory, read_only=True)
    template = make_state(tiny_decoder_config).trainable
    weights = reader.restore_trainable(reader.latest(), template)
    assert_same_bits(weights, make_state(tiny_decoder_config, 3).trainable)
    with pytest.raises(ValueError, match="read-only"):
        reader.save(9, make_state(tiny_decoder_config))


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("part", ["trainable", "training", "record", "iterator"])
def test_a_truncated_checkpoint_is_passed_over_with_a_sentence_and_not_deleted(
    run, tiny_decoder_config, messages, part, manifest
):
    newest = run.latest()
    truncate(newest.path / part)
    if not manifest:  # as after a kill between checkpoint and manifest
        (run.directory / "manifests" / "steps-3.json").unlink()
    iterator = make_iterator()
    state, position = reopen(run).restore_latest(make_state(tiny_decoder_config), iterator)
    assert_same_bits(state, make_state(tiny_decoder_config, 2))
    assert position["iteration"] == 2
    np.testing.assert_array_equal(next(iterator), next(make_iterator(taken=2)))
    assert len(messages) == 1
    assert str(newest.path) in messages[0] and "damaged" in messages[0]
    assert newest.path.exists()


@pytest.mark.parametrize("how", ["flipped", "removed"])
def test_an_altered_or_missing_file_is_noticed(run, tiny_decoder_config, messages, how):
    path = largest_file(run.latest().path / "trainable")
    if how == "flipped":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    state, _ = reopen(run).restore_latest(make_state(tiny_decoder_config))
    assert int(state.step) == 2
    assert ("other contents" if how == "flipped" else "is missing") in messages[0]


def test_a_run_taken_up_before_damage_sets_it_aside_and_goes_on(run, tiny_decoder_config, messages):
    truncate(run.latest().path)
    again = reopen(run)
    state, _ = again.restore_latest(make_state(tiny_decoder_config))
    again.save(3, make_state(tiny_decoder_config, 33))
    assert [path.name for path in (run.directory / "set_aside").iterdir()] == ["steps-3.0"]
    again.close()
    state, _ = reopen(run).restore_latest(make_state(tiny_decoder_config))
    assert_same_bits(state, make_state(tiny_decoder_config, 33))


def test_a_run_with_no_intact_checkpoint_says_so_in_one_sentence(
    run, tiny_decoder_config, messages
):
    for info in run.all():
        truncate(info.path)
    with pytest.raises(ValueError, match="None of the 3 checkpoints in .* is intact"):
        reopen(run).restore_latest(make_state(tiny_decoder_config))
    assert len(messages) == 3
    assert len(run.all()) == 3


def test_an_unfinished_write_is_not_taken_for_a_checkpoint(run, tiny_decoder_config):
    unfinished = run.directory / "steps" / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "half").write_bytes(b"half")
    assert reopen(run).latest().step == 3


def test_another_configuration_is_an_error_and_not_damage(run, tiny_decoder_config, messages):
    with pytest.raises(ValueError, match=r"another configuration: trainable\['norm'\]"):
        reopen(run).restore_latest(make_state(tiny_decoder_config, width=7))
    assert not messages


def test_base_weights_are_not_written_but_have_to_be_the_same(run, tiny_decoder_config):
    base = {"big": jnp.arange(12.0)}
    state = dataclasses.replace(make_state(tiny_decoder_config, 5), frozen=base)
    path = pathlib.Path(run.save(5, state).path)
    assert not any("big" in file.read_text(errors="ignore") for file in path.rglob("_METADATA"))
    restored, _ = reopen(run).restore_latest(state)
    assert restored.frozen is base
    other = dataclasses.replace(state, frozen={"big": jnp.arange(12.0) + 1})
    with pytest.raises(ValueError, match="other base weights"):
        reopen(run).restore_latest(other)


def test_too_few_kept_checkpoints_and_unusable_phase_names_are_refused(
    run, tmp_path, tiny_decoder_config
):
    with pytest.raises(ValueError, match="at least 2"):
        Checkpoints(tmp_path, keep=1)
    with pytest.raises(ValueError, match="phase_end is '../up'"):
        run.save(9, make_state(tiny_decoder_config), phase_end="../up")


def test_a_save_that_is_not_waited_for_is_whole_though_its_arrays_are_given_away(
    tmp_path, tiny_decoder_config
):
    checkpoints = Checkpoints(tmp_path)
    state = make_state(tiny_decoder_config, 3, width=200_000)
    checkpoints.save(3, state, make_iterator(taken=3), wait=False)
    move = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    move(state.trainable)  # as an update would do
    checkpoints.finish()
    restored, _ = Checkpoints(tmp_path).restore_latest(
        make_state(tiny_decoder_config, width=200_000), make_iterator()
    )
    assert_same_bits(restored, make_state(tiny_decoder_config, 3, width=200_000))
    checkpoints.close()


def test_a_full_disk_costs_one_checkpoint_and_none_that_was_there(small_disk, tiny_decoder_config):
    checkpoints = Checkpoints(small_disk / "run", keep=2)
    checkpoints.save(1, make_state(tiny_decoder_config, 1))
    filler = fill(small_disk)
    with pytest.raises(SaveFailed, match="checkpoint .*2 could not be written: .*[Nn]o space left"):
        checkpoints.save(2, make_state(tiny_decoder_config, 2))
    state, _ = Checkpoints(small_disk / "run").restore_latest(make_state(tiny_decoder_config))
    assert_same_bits(state, make_state(tiny_decoder_config, 1))
    filler.unlink()
    checkpoints.save(3, make_state(tiny_decoder_config, 3))
    checkpoints.close()
    state, _ = Checkpoints(small_disk / "run").restore_latest(make_state(tiny_decoder_config))
    assert_same_bits(state, make_state(tiny_decoder_config, 3))
