"""The C++ kernels of CPUs against float64, and what happens without a compiler."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import decoder
from agemem_jax.models.attention import Scoring, attend_cache, choose_implementation
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.models.kernels import compiled, decode_cpu, product_cpu
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import EngineConfig, GenerationRequest

needs_compiler = pytest.mark.skipif(
    not compiled.available(), reason="This machine has no C++ compiler."
)
SLOTS = 5


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention_in_float64(query, keys, values, positions, scale, softcap=0.0, window=0):
    """Attention slot by slot and head by head."""
    group = query.shape[1] // keys.shape[1]
    query, keys, values = (np.asarray(x, np.float64) for x in (query, keys, values))
    mixed = np.zeros(query.shape)
    for slot, position in enumerate(positions):
        first = max(0, position + 1 - window) if window else 0
        for head in range(query.shape[1]):
            own_keys = keys[slot, head // group, :, first : position + 1]
            scores = scale * query[slot, head] @ own_keys
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            weights = np.exp(scores - scores.max())
            own_values = values[slot, head // group, first : position + 1]
            mixed[slot, head] = weights / weights.sum() @ own_values
    return mixed


@needs_compiler
@pytest.mark.parametrize("cache_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scoring", [{}, {"softcap": 1.5}, {"window": 21}], ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "lengths"),
    [(6, 2, 64, (64, 32)), (5, 1, 16, (23, 50, 7)), (7, 7, 80, (96,)), (4, 2, 128, (16, 80))],
    ids=str,
)
def test_a_token_attends_to_its_cache(heads, kv_heads, dim, lengths, scoring, cache_dtype):
    query, total = 2 * draw(SLOTS, heads, dim), sum(lengths)
    keys = jnp.asarray(draw(SLOTS, kv_heads, dim, total, seed=1), cache_dtype)
    values = jnp.asarray(draw(SLOTS, kv_heads, total, dim, seed=2), cache_dtype)
    positions = np.array([0, 15, lengths[0] - 1, total // 2, total - 1], np.int32)
    cuts = np.cumsum(lengths)[:-1]
    parts = jnp.split(keys, cuts, axis=3), jnp.split(values, cuts, axis=2)
    found = decode_cpu.attend(query, *parts, positions, scale=0.2, **scoring)
    wanted = attention_in_float64(query, keys, values, positions, 0.2, **scoring)
    plain = attend_cache(query[:, None], *parts, positions[:, None], Scoring(0.2, **scoring))[:, 0]
    rounding = np.abs(plain - wanted).max()  # of what XLA computes
    np.testing.assert_allclose(found, wanted, atol=2 * max(rounding, 5e-7))
    assert rounding < 5e-6


@needs_compiler
def test_what_lies_behind_the_token_is_not_read_and_idle_slots_get_zeros():
    query = draw(3, 4, 16)
    keys = jnp.asarray(draw(3, 2, 16, 40)).at[..., 9:].set(jnp.nan)
    values = jnp.asarray(draw(3, 2, 40, 16)).at[:, :, 9:].set(jnp.nan)
    positions = np.array([8, 40, 1000], np.int32)
    found = decode_cpu.attend(query, [keys], [values], positions, scale=0.2)
    wanted = attention_in_float64(query, keys, values, [8], 0.2)
    np.testing.assert_allclose(found[0], wanted[0], atol=2e-6)
    assert np.all(found[1:] == 0)


@needs_compiler
def test_what_is_not_a_number_stays_visible():
    query = draw(1, 2, 16)
    keys = jnp.asarray(draw(1, 1, 16, 32)).at[0, 0, 3, 5].set(jnp.nan)
    found = decode_cpu.attend(query, [keys], [draw(1, 1, 32, 16)], np.array([9]), scale=0.2)
    assert np.all(np.isnan(found))


@needs_compiler
def test_attention_over_a_cache_takes_the_kernel_for_single_tokens(monkeypatch):
    called = []
    attend = decode_cpu.attend
    monkeypatch.setattr(
        decode_cpu, "attend", lambda *args, **kw: called.append(1) or attend(*args, **kw)
    )
    scoring = Scoring(0.3, softcap=2.0, window=9, implementation="cpp")
    for tokens, dim, kernel in ((1, 16, True), (2, 16, False), (1, 8, False)):
        called.clear()
        query = draw(SLOTS, tokens, 4, dim)
        cache = [jnp.asarray(draw(SLOTS, 2, dim, 32))], [jnp.asarray(draw(SLOTS, 2, 32, dim))]
        positions = np.arange(SLOTS, dtype=np.int32)[:, None] * 5 + np.arange(tokens)
        found = attend_cache(query, *cache, positions, scoring)
        plain = dataclasses.replace(scoring, implementation="plain")
        np.testing.assert_allclose(found, attend_cache(query, *cache, positions, plain), atol=2e-6)
        assert bool(called) == kernel


@needs_compiler
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs"),
    [(2, 3, 5), (12, 96, 64), (16, 1000, 37), (17, 33, 48), (32, 8, 9)],
)
def test_few_rows_times_a_matrix(rows, outputs, inputs):
    x, matrix = draw(rows, inputs), draw(outputs, inputs, seed=1)
    assert product_cpu.suits(x, matrix)
    found = product_cpu.times_transposed(x, matrix)
    np.testing.assert_allclose(found, x.astype(np.float64) @ matrix.T, atol=2e-5)


@needs_compiler
def test_a_large_product_is_the_same_whichever_threads_compute_it():
    x, matrix = draw(9, 300), draw(3000, 300, seed=1)
    found = [np.asarray(product_cpu.times_transposed(x, matrix)) for _ in range(20)]
    np.testing.assert_allclose(found[0], x.astype(np.float64) @ matrix.T, atol=1e-4)
    for other in found[1:]:  # whoever computed what
        np.testing.assert_array_equal(found[0], other)


def test_one_row_many_rows_and_other_dtypes_are_left_to_xla():
    matrix = draw(8, 8)
    assert not product_cpu.suits(draw(1, 8), matrix)
    assert not product_cpu.suits(draw(33, 8), matrix)
    assert not product_cpu.suits(jnp.zeros((4, 8), jnp.bfloat16), matrix)


@needs_compiler
@pytest.mark.parametrize("cache_dtype", ["float32", "bfloat16"])
def test_the_engine_gives_the_same_tokens_with_kernels_and_without(cache_dtype):
    model = DecoderConfig(
        vocab_size=61, num_layers=2, width=32, num_heads=4, num_kv_heads=2, head_dim=16,
        ffn_width=48, windows=(0, 12), attention_softcap=5.0,
    )  # fmt: skip
    params = decoder.init_params(model, jax.random.key(0))
    weights = Weights(jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, params))
    generated = {}
    for attention, order in (("plain", "as_trained"), ("cpp", "stacked")):
        config = EngineConfig(
            slots=3, max_length=64, prefill_buckets=(8,), attend_buckets=(32,), chunk=4,
            weights=order, cache_dtype=cache_dtype,
        )  # fmt: skip
        engine = Engine(config, dataclasses.replace(model, attention=attention), stop_id=0)
        engine.load(weights)
        for slot in range(3):
            prompt = tuple(range(1, 6 + slot))
            engine.submit(GenerationRequest(slot, prompt, 40, jax.random.key(slot)))
        done = []
        while engine.pending:
            done += engine.step()
        generated[attention] = {each.slot: each for each in done}
    for slot, plain in generated["plain"].items():
        found = generated["cpp"][slot]
        assert found.token_ids == plain.token_ids
        np.testing.assert_allclose(found.log_probs, plain.log_probs, atol=2e-5)


@pytest.fixture
def no_library():
    compiled._library.cache_clear()
    yield
    compiled._library.cache_clear()


def test_without_a_compiler_attention_is_plain(monkeypatch, no_library):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert choose_implementation("auto") == "plain"
    assert not product_cpu.suits(draw(4, 8), draw(8, 8))
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler .* or take 'plain'"):
        decode_cpu.attend(
            draw(1, 2, 16), [draw(1, 1, 16, 32)], [draw(1, 1, 32, 16)], np.array([9]), scale=0.2
        )


def test_a_compiler_that_fails_is_told_of(monkeypatch, no_library, caplog):
    monkeypatch.setenv("CXX", "false")
    with caplog.at_level(logging.WARNING):
        assert not compiled.available()
    assert "The C++ kernels were not compiled, so CPUs decode slower" in caplog.text


@needs_compiler
def test_the_library_is_compiled_once(monkeypatch, no_library, tmp_path):
    monkeypatch.setenv("AGEMEM_CACHE", str(tmp_path))
    assert compiled.available()
    (library,) = tmp_path.glob("kernels/*")
    written = library.stat().st_mtime_ns
    compiled._library.cache_clear()
    assert compiled.available()
    assert [each.stat().st_mtime_ns for each in tmp_path.glob("kernels/*")] == [written]
