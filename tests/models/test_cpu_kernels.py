"""The C++ kernels of CPUs against float64, and what happens without a compiler."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import backends, decoder
from agemem_jax.models.attention import Packing, Scoring, attend_cache
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.models.kernels import compiled, decode_cpu, forest_cpu, product_cpu
from agemem_jax.models.kernels.forest import Tiling
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import EngineConfig, GenerationRequest
from tests.models.forests import grow_forest, packed_in_float64

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
    scoring = Scoring(0.3, softcap=2.0, window=9)
    for tokens, kernel in ((1, True), (2, False)):
        called.clear()
        query = draw(SLOTS, tokens, 4, 16)
        cache = [jnp.asarray(draw(SLOTS, 2, 16, 32))], [jnp.asarray(draw(SLOTS, 2, 32, 16))]
        positions = np.arange(SLOTS, dtype=np.int32)[:, None] * 5 + np.arange(tokens)
        found = backends.get("cpu").attend_cache(query, *cache, positions, scoring)
        plain = attend_cache(query, *cache, positions, scoring)
        np.testing.assert_allclose(found, plain, atol=2e-6)
        assert bool(called) == kernel


@needs_compiler
@pytest.mark.parametrize("scoring", [{}, {"softcap": 1.5}, {"window": 37}], ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "tokens", "ahead"),
    [(3, 1, 16, 330, 0), (4, 2, 80, 200, 75), (2, 2, 64, 77, 16)],
    ids=str,
)
def test_packed_rows_and_their_gradients(heads, kv_heads, dim, tokens, ahead, scoring):
    rng = np.random.default_rng(tokens)
    rows = [grow_forest(tokens, rng) for _ in range(2)]
    visible_to, positions = (np.stack(part) for part in zip(*rows, strict=True))
    uses_prefix = (rng.random((2, tokens)) < 0.5) & (visible_to > 0) & (ahead > 0)
    packing = Packing(visible_to, uses_prefix)
    positions = positions + ahead * uses_prefix
    query, weight = 2 * draw(2, tokens, heads, dim), draw(2, tokens, heads, dim, seed=1)
    # What padding attends to is not defined.
    weight *= (visible_to > 0)[..., None, None]
    own = [draw(2, kv_heads, tokens, dim, seed=seed) for seed in (2, 3)]
    before = [draw(1, kv_heads, ahead, dim, seed=seed) for seed in (4, 5)]
    inputs = query, *own, *before

    how = Scoring(dim**-0.5, **scoring)

    def compute(backend):
        @jax.jit
        def run(inputs):
            def total(query, keys, values, *prefix):
                prefix = (prefix[0].swapaxes(2, 3), prefix[1]) if ahead else None
                mixed = backends.get(backend).attend_packed(
                    query, keys, values, positions, packing, prefix, how
                )
                return jnp.sum(mixed * weight), mixed

            grads, mixed = jax.grad(total, argnums=tuple(range(5)), has_aux=True)(*inputs)
            return mixed, *grads

        return run(inputs)

    wanted = packed_in_float64(query, *own, weight, positions, packing, before, how)
    found, plain = compute("cpu"), compute("plain")
    real = visible_to > 0
    for index, (kernel, by_xla, exact) in enumerate(zip(found, plain, wanted, strict=True)):
        if index == 0:
            kernel, by_xla, exact = kernel[real], by_xla[real], exact[real]
        rounding = np.abs(by_xla - exact).max(initial=0.0)
        np.testing.assert_allclose(kernel, exact, rtol=0, atol=2 * max(rounding, 5e-7))
        assert rounding < 5e-5


@needs_compiler
def test_padding_of_blocks_sees_nothing():
    index = np.arange(16, dtype=np.int32)
    q_info = np.stack([0 * index, index + 16, index, index + 16], axis=-1)
    q_info[11:] = -1
    k_info = np.stack([np.full(32, 16), np.arange(32)]).astype(np.int32)
    keys, values = jnp.asarray(draw(1, 1, 32, 16)), jnp.asarray(draw(1, 1, 32, 16, seed=1))
    query = jnp.asarray(draw(1, 1, 16, 16, seed=2))
    mixed = forest_cpu.attend(Tiling(0.25), query, keys, values, q_info[None], k_info[None])
    assert np.all(mixed[:, :, :11] != 0)
    assert np.all(mixed[:, :, 11:] == 0)


@needs_compiler
@pytest.mark.parametrize(
    ("tokens", "dim", "message"),
    [(32, 8, "Heads of 8 do not divide"), (24, 16, "Rows of 24 queries do not divide")],
)
def test_what_does_not_divide_is_told(tokens, dim, message):
    rows = jnp.zeros((1, 1, tokens, dim))
    q_info, k_info = jnp.zeros((1, tokens, 4), jnp.int32), jnp.zeros((1, 2, tokens), jnp.int32)
    with pytest.raises(ValueError, match=message):
        forest_cpu.attend(Tiling(0.25), rows, rows, rows, q_info, k_info)


@needs_compiler
def test_packed_rows_in_bfloat16_are_those_in_float32_rounded():
    query = draw(1, 64, 4, 16)
    keys, values = draw(1, 2, 64, 16), draw(1, 2, 64, 16, seed=1)
    packing = Packing(np.full((1, 64), 64), np.zeros((1, 64), bool))

    def attend(*inputs):
        positions = np.arange(64)[None]
        return backends.get("cpu").attend_packed(*inputs, positions, packing, None, Scoring(0.25))

    rounded = [jnp.asarray(x, jnp.bfloat16) for x in (query, keys, values)]
    in_float32 = attend(*(x.astype(jnp.float32) for x in rounded))
    np.testing.assert_array_equal(attend(*rounded), in_float32.astype(jnp.bfloat16))


@needs_compiler
def test_gradients_of_packed_rows_are_the_same_whichever_threads_compute_them():
    tokens = 700
    visible_to, positions = (x[None] for x in grow_forest(tokens, np.random.default_rng(0)))
    packing = Packing(visible_to, np.zeros((1, tokens), bool))
    attend = backends.get("cpu").attend_packed

    @jax.jit
    def grads(*inputs):
        def total(*inputs):
            return jnp.sum(attend(*inputs, positions, packing, None, Scoring(0.2)) ** 2)

        return jax.grad(total, argnums=(0, 1, 2))(*inputs)

    inputs = draw(1, tokens, 6, 32), draw(1, 2, tokens, 32), draw(1, 2, tokens, 32, seed=1)
    first, *others = (jax.tree.map(np.asarray, grads(*inputs)) for _ in range(10))
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)


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
    for backend, order in (("plain", "as_trained"), ("cpu", "stacked")):
        config = EngineConfig(
            slots=3, max_length=64, prefill_buckets=(8,), attend_buckets=(32,), chunk=4,
            weights=order, cache_dtype=cache_dtype,
        )  # fmt: skip
        engine = Engine(config, dataclasses.replace(model, backend=backend), stop_id=0)
        engine.load(weights)
        for slot in range(3):
            prompt = tuple(range(1, 6 + slot))
            engine.submit(GenerationRequest(slot, prompt, 40, jax.random.key(slot)))
        done = []
        while engine.pending:
            done += engine.step()
        generated[backend] = {each.slot: each for each in done}
    for slot, plain in generated["plain"].items():
        found = generated["cpu"][slot]
        assert found.token_ids == plain.token_ids
        np.testing.assert_allclose(found.log_probs, plain.log_probs, atol=2e-5)


def _paths(head_dim):
    model = DecoderConfig(
        vocab_size=8, num_layers=1, width=8, num_heads=1, num_kv_heads=1, head_dim=head_dim,
        ffn_width=8,
    )  # fmt: skip
    return backends.get("cpu").attention_paths(model, (64,), (8,))


@pytest.fixture
def no_library():
    compiled._library.cache_clear()
    yield
    compiled._library.cache_clear()


def test_without_a_compiler_attention_is_plain(monkeypatch, no_library):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert set(_paths(head_dim=16).values()) == {"XLA"}
    assert not product_cpu.suits(draw(4, 8), draw(8, 8))
    with pytest.raises(ValueError, match="need a C\\+\\+ compiler .* to 'plain'"):
        decode_cpu.attend(
            draw(1, 2, 16), [draw(1, 1, 16, 32)], [draw(1, 1, 32, 16)], np.array([9]), scale=0.2
        )


def test_a_compiler_that_fails_is_told_of(monkeypatch, no_library, caplog):
    monkeypatch.setenv("CXX", "false")
    with caplog.at_level(logging.WARNING):
        assert not compiled.available()
    assert "The C++ kernels were not compiled, so CPUs are slower" in caplog.text


@needs_compiler
def test_heads_that_do_not_divide_into_vectors_are_left_to_xla():
    assert _paths(head_dim=80) == {"decoding": "C++", "prefill": "XLA", "rows": "C++"}
    assert set(_paths(head_dim=40).values()) == {"XLA"}


@needs_compiler
def test_the_library_is_compiled_once(monkeypatch, no_library, tmp_path):
    monkeypatch.setenv("AGEMEM_CACHE", str(tmp_path))
    assert compiled.available()
    (library,) = tmp_path.glob("kernels/*")
    written = library.stat().st_mtime_ns
    compiled._library.cache_clear()
    assert compiled.available()
    assert [each.stat().st_mtime_ns for each in tmp_path.glob("kernels/*")] == [written]
