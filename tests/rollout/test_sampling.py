import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import kv_cache
from agemem_jax.rollout import decoding
from agemem_jax.rollout.generation import GenerationRequest
from agemem_jax.rollout.sampling import (
    BY_TEMPERATURE,
    SamplingMode,
    draw_in_one_pass,
    draw_in_passes,
    sample,
)

WAYS = pytest.mark.parametrize("draw", [draw_in_passes, draw_in_one_pass])


@WAYS
def test_draws_follow_the_weights_and_never_hit_a_zero(draw):
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=300) * (rng.random(300) < 0.3)
    weights[-20:] = 0  # also not when rounding carries the target past the end
    uniforms = np.concatenate([(np.arange(2**14) + 0.5) / 2**14, [0.0, 1 - 2**-24]])
    with np.errstate(divide="ignore"):
        logits = np.log(weights) + 7
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (len(uniforms), 300))
    drawn, highest, total = draw(rows, jnp.asarray(uniforms, jnp.float32))
    np.testing.assert_allclose(highest, logits.max(), rtol=1e-6)
    np.testing.assert_allclose(total, weights.sum() / weights.max(), rtol=1e-5)
    assert np.all(weights[np.asarray(drawn)] > 0)
    counts = np.bincount(drawn, minlength=300) / len(uniforms)
    np.testing.assert_allclose(counts, weights / weights.sum(), atol=2 / 2**14)


@WAYS
def test_a_draw_inverts_the_cumulative_distribution(draw):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(64, 1000)).astype(np.float32) * 4
    uniforms = rng.random(64, np.float32)
    shares = np.exp(logits.astype(np.float64))
    ends = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)
    drawn = np.asarray(draw(jnp.asarray(logits), jnp.asarray(uniforms))[0])
    rows = np.arange(64)
    begins = np.where(drawn > 0, ends[rows, drawn - 1], 0.0)
    assert np.all(begins <= uniforms + 1e-5) and np.all(uniforms <= ends[rows, drawn] + 1e-5)


def test_a_mode_names_what_its_requests_need():
    plain = GenerationRequest(0, (1,), 2, jax.random.key(0))
    greedy, some = (dataclasses.replace(plain, **x) for x in ({"temperature": 0.0}, {"top_k": 3}))
    assert SamplingMode.of([plain, plain]) == SamplingMode.of([]) == BY_TEMPERATURE
    assert SamplingMode.of([plain, greedy]) == SamplingMode(greedy=True)
    assert SamplingMode.of([some, greedy]) == SamplingMode(greedy=True, restricted=True)
    # Who is greedy draws from nothing, whatever else is said.
    assert SamplingMode.of([dataclasses.replace(greedy, top_p=0.5)]) == SamplingMode(greedy=True)


def test_a_mode_that_can_do_more_draws_the_same():
    logits = jax.random.normal(jax.random.key(0), (4, 500)) * 3
    keys = jax.random.split(jax.random.key(1), 4)
    temperatures = jnp.asarray([1.0, 0.5, 2.0, 1.0])
    top_ks, top_ps = jnp.zeros(4, jnp.int32), jnp.ones(4)

    def drawn(mode):
        return sample(logits, keys, temperatures, top_ks, top_ps, mode)

    tokens, log_probs = drawn(BY_TEMPERATURE)
    scaled = np.asarray(logits, np.float64) / np.asarray(temperatures)[:, None]
    expected = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(log_probs, expected[np.arange(4), tokens], atol=1e-5)
    for mode in (SamplingMode(greedy=True), SamplingMode(greedy=True, restricted=True)):
        np.testing.assert_array_equal(drawn(mode)[0], tokens)
        np.testing.assert_allclose(drawn(mode)[1], log_probs, atol=1e-6)


def test_a_chunk_asks_nothing_on_its_way(model, weights):
    cache = kv_cache.init_cache(model, 2, 32, jnp.dtype("float32"), ())
    state = decoding.DecodeState.idle(2)

    def lowered(mode, idle_slots):
        return decoding.decode_chunk.lower(
            model, weights, cache, state, None, parts=1, chunk=4, idle_slots=idle_slots,
            stop_ids=(2,), sampling=mode,
        )  # fmt: skip

    everything = SamplingMode(greedy=True, restricted=True)
    assert " conditional(" not in lowered(everything, 0).compile().as_text()

    def condition(idle_slots):
        loops = lowered(BY_TEMPERATURE, idle_slots).as_text().split("stablehlo.while")
        return next(x for x in loops if "stablehlo.dot_general" in x).split(" do {")[0]

    # With a known length nothing but the count of steps decides whether the loop goes on.
    assert "stablehlo.reduce" in condition(1) and "stablehlo.reduce" not in condition(0)


def test_a_key_is_folded_on_the_device_as_on_the_host():
    keys = [jax.random.fold_in(jax.random.key(5), 9), jax.random.key(6)]
    data = [np.asarray(jax.random.key_data(key)) for key in (jax.random.key(5), keys[1])]
    requests = [
        GenerationRequest(3, (7, 8), 5, data[0], temperature=0.7, top_k=4, top_p=0.9, step=9),
        GenerationRequest(1, (9,), 6, data[1]),
    ]
    state = decoding.admit(decoding.DecodeState.idle(4), decoding.pack_rows(requests, data, 4))
    held = np.asarray(state.keys)[[3, 1]]
    np.testing.assert_array_equal(held, [jax.random.key_data(key) for key in keys])
    assert state.active.tolist() == [False, True, False, True]
    assert state.tokens.tolist() == [0, 9, 0, 8] and state.positions.tolist() == [0, 0, 0, 1]
    assert state.limits.tolist() == [0, 6, 0, 5] and state.top_ks.tolist() == [0, 0, 0, 4]
    np.testing.assert_array_equal(state.temperatures, np.float32([1, 1, 1, 0.7]))
    np.testing.assert_array_equal(state.top_ps, np.float32([1, 1, 1, 0.9]))
