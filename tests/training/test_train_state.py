"""Schedules, the decay mask, and which weights act as policy and reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.training import train_state
from agemem_jax.training.train_state import OptimizerConfig

PARAMS = {"layer": {"w": jnp.ones((2, 3)), "norm": jnp.ones((2, 3)), "bias": jnp.ones(3)}}


def test_the_learning_rate_rises_to_its_peak_and_falls_along_a_cosine():
    config = OptimizerConfig(
        learning_rate=1.0, warmup_steps=4, schedule="cosine", total_steps=14, final_fraction=0.2
    )
    schedule = train_state.make_schedule(config)
    rise = [0.2, 0.4, 0.6, 0.8]
    fall = [0.2 + 0.8 * (1 + np.cos(np.pi * step / 10)) / 2 for step in range(11)]
    np.testing.assert_allclose([schedule(i) for i in range(15)], rise + fall, rtol=1e-5)
    np.testing.assert_allclose(schedule(100), 0.2, rtol=1e-6)


def test_the_learning_rate_falls_along_a_line():
    config = OptimizerConfig(
        learning_rate=2.0, warmup_steps=1, schedule="linear", total_steps=11, final_fraction=0.25
    )
    schedule = train_state.make_schedule(config)
    fall = [2.0 - 1.5 * step / 10 for step in range(11)]
    np.testing.assert_allclose([schedule(i) for i in range(12)], [1.0, *fall], rtol=1e-6)
    np.testing.assert_allclose(schedule(100), 0.5, rtol=1e-6)


def test_a_constant_schedule_stays_at_its_peak():
    schedule = train_state.make_schedule(OptimizerConfig(learning_rate=0.5, warmup_steps=1))
    np.testing.assert_allclose([schedule(i) for i in (0, 1, 2, 50)], [0.25, 0.5, 0.5, 0.5])


def test_only_matrices_decay():
    mask = train_state.decay_mask(PARAMS)
    assert mask == {"layer": {"w": True, "norm": False, "bias": False}}


def test_the_first_step_is_adam_s_with_clipping_and_decoupled_decay():
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, max_grad_norm=1.0, eps=1e-3)
    optimizer = train_state.make_optimizer(config)
    gradient = jax.tree.map(lambda leaf: 2.0 * leaf, PARAMS)
    updates, _ = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
    clipped = 2.0 / np.sqrt(15 * 4.0)
    move = clipped / (clipped + 1e-3)  # bias-corrected moments of a first step
    np.testing.assert_allclose(updates["layer"]["bias"], -0.1 * move, rtol=1e-5)
    np.testing.assert_allclose(updates["layer"]["w"], -0.1 * (move + 0.5), rtol=1e-5)


@pytest.mark.parametrize(
    "options, name",
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"b2": 1.0}, "b2"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"schedule": "exponential"}, "schedule"),
        ({"schedule": "linear", "total_steps": 5, "warmup_steps": 5}, "total_steps"),
        ({"schedule": "cosine", "total_steps": 5, "warmup_steps": 5}, "total_steps"),
        ({"final_fraction": 2.0}, "final_fraction"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_a_wrong_optimizer_option_is_refused_by_its_name(options, name):
    with pytest.raises(ValueError, match=rf"optimizer\.{name} is "):
        OptimizerConfig(**options)


def create(config, keep_reference=True):
    return train_state.create(
        config, PARAMS, OptimizerConfig(), keep_reference=keep_reference, key=jax.random.key(0)
    )


def test_master_weights_are_float32_copies(tiny_decoder_config):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    state = train_state.create(
        tiny_decoder_config, params, OptimizerConfig(), keep_reference=True, key=jax.random.key(0)
    )
    for leaf in jax.tree.leaves((state.trainable, state.reference)):
        assert leaf.dtype == jnp.float32
    pairs = zip(jax.tree.leaves(state.trainable), jax.tree.leaves(state.reference), strict=True)
    assert all(one.unsafe_buffer_pointer() != other.unsafe_buffer_pointer() for one, other in pairs)


def test_the_reference_is_kept_as_it_is_read(tiny_decoder_config):
    config = dataclasses.replace(tiny_decoder_config, compute_dtype="bfloat16")
    layer = create(config).reference["layer"]
    assert layer["w"].dtype == layer["bias"].dtype == jnp.bfloat16
    assert layer["norm"].dtype == jnp.float32  # norms are computed in float32
    for leaf in jax.tree.leaves(create(config).trainable):
        assert leaf.dtype == jnp.float32


def test_a_restart_holds_the_policy_to_what_it_is_now(tiny_decoder_config):
    state = create(tiny_decoder_config)
    state = state.replace(trainable=jax.tree.map(lambda leaf: leaf + 1.0, state.trainable))
    restarted = train_state.restart(
        tiny_decoder_config, state, OptimizerConfig(), keep_reference=True
    )
    assert jax.tree.structure(restarted) == jax.tree.structure(state)
    for which in (train_state.weights, train_state.reference_weights):
        leaf = which(restarted).params["layer"]["w"]
        np.testing.assert_array_equal(leaf, 2.0)


def test_a_renewed_reference_is_today_s_policy_in_a_copy_of_its_own(tiny_decoder_config):
    state = create(tiny_decoder_config)
    moved = state.replace(trainable=jax.tree.map(lambda leaf: leaf + 1.0, state.trainable))
    old = moved.reference
    renewed = train_state.renew_reference(tiny_decoder_config, moved)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    pairs = zip(jax.tree.leaves(renewed.reference), jax.tree.leaves(renewed.trainable), strict=True)
    for mine, theirs in pairs:
        np.testing.assert_array_equal(mine, theirs)
        assert mine.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()
    assert renewed.opt_state is moved.opt_state and renewed.step is moved.step


def test_asking_for_a_reference_that_was_not_kept_is_an_error(tiny_decoder_config):
    with pytest.raises(ValueError, match="no reference policy"):
        train_state.reference_weights(create(tiny_decoder_config, keep_reference=False))
