"""The Mosaic kernels of NVIDIA GPUs, interpreted, against float64 and plain attention."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import backends
from agemem_jax.models.attention import Packing, Scoring, attend_cache
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.kernels import decode_cuda, forest_cuda, forest_plan
from agemem_jax.models.kernels.forest import Tiling
from tests.models.forests import grow_forest, packed_in_float64

CUDA = backends.get("cuda_interpreted")


def draw(*shape, seed=0):
    """Numbers that bfloat16 holds."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.bfloat16)


# Behind a prefix, which makes rows long enough that a stage is filled more than once; with all
# that masks and scores can have; and in the blocks of large heads.
CASES = {
    "prefix": (2, 1, 64, 300, 230, {}),
    "window and softcap": (2, 2, 64, 200, 0, {"window": 37, "softcap": 1.5}),
    "heads of 128": (2, 1, 128, 200, 0, {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_packed_rows_and_their_gradients(case):
    heads, kv_heads, dim, tokens, ahead, change = case
    rng = np.random.default_rng(tokens)
    visible_to, positions = (x[None] for x in grow_forest(tokens, rng))
    uses_prefix = (rng.random((1, tokens)) < 0.7) & (visible_to > 0) & (ahead > 0)
    packing, positions = Packing(visible_to, uses_prefix), positions + ahead * uses_prefix
    query, weight = 2 * draw(1, tokens, heads, dim), draw(1, tokens, heads, dim, seed=1)
    weight *= jnp.asarray(visible_to > 0, jnp.bfloat16)[..., None, None]  # padding counts nothing
    own = [draw(1, kv_heads, tokens, dim, seed=seed) for seed in (2, 3)]
    before = [draw(1, kv_heads, ahead, dim, seed=seed) for seed in (4, 5)]
    scoring = Scoring(dim**-0.5, **change)

    def compute(backend):
        def total(query, keys, values, *prefix):
            prefix = prefix if ahead else None
            if ahead and backend.transposes_keys:
                prefix = prefix[0].swapaxes(2, 3), prefix[1]
            mixed = backend.attend_packed(
                query, keys, values, positions, packing, prefix, scoring
            )  # fmt: skip
            return jnp.sum((mixed * weight).astype(jnp.float32)), mixed

        run = jax.grad(total, argnums=tuple(range(5)), has_aux=True)
        grads, mixed = run(query, *own, *before)
        return [np.asarray(x, np.float64) for x in (mixed, *grads)]

    found, by_xla = compute(CUDA), compute(backends.get("plain"))
    wanted = packed_in_float64(query, *own, weight, positions, packing, before, scoring)
    real = visible_to > 0
    for index, (kernel, xla, exact) in enumerate(zip(found, by_xla, wanted, strict=True)):
        if index == 0:
            kernel, xla, exact = kernel[real], xla[real], exact[real]
        rounding = np.abs(xla - exact).max(initial=0.0)
        assert np.abs(kernel - exact).max(initial=0.0) <= 1.5 * rounding
        assert rounding <= 0.01 * np.abs(exact).max(initial=0.0)  # 8 bits


def test_a_plan_lists_blocks_that_are_seen_whole_first():
    # A trunk of 128 tokens, and two branches of 64 behind it, in blocks of 64.
    visible_to = np.repeat([256, 192, 256], [128, 64, 64])
    order = np.arange(256)
    q_info = np.stack([0 * order, order, order, order], -1)[None].astype(np.int32)
    k_info = np.stack([visible_to, order])[None].astype(np.int32)
    tiling = Tiling(1.0, queries=64, keys=64)
    keys, queries = (np.asarray(x)[0] for x in forest_plan.plan(tiling, q_info, k_info))

    def read(lists):
        return [
            (list(each[4 : 4 + each[0]]), list(each[4 + each[0] : 4 + each[1]])) for each in lists
        ]

    assert read(keys) == [([], [0]), ([0], [1]), ([0, 1], [2]), ([0, 1], [3])]
    assert read(queries) == [([1, 2, 3], [0]), ([2, 3], [1]), ([], [2]), ([], [3])]


SLOTS, HEADS, KV_HEADS, LENGTH, LAYERS = 3, 6, 2, 256, 2


def cache(seed):
    return draw(LAYERS, SLOTS, KV_HEADS, LENGTH, 64, seed=seed)


def plainly(query, keys, values, positions, scoring):
    """Attention to a layer's cache in float32."""
    query, keys, values = (x.astype(jnp.float32) for x in (query, keys, values))
    return attend_cache(query, [keys.swapaxes(2, 3)], [values], positions, scoring)


@pytest.mark.parametrize("change", [{}, {"window": 100, "softcap": 5.0}], ids=str)
def test_a_token_attends_to_its_layer_of_a_cache(change):
    query, positions = 2 * draw(SLOTS, 1, HEADS, 64), jnp.array([[5], [200], [LENGTH]])
    keys, values, scoring = cache(1), cache(2), Scoring(0.125, **change)
    found = CUDA.attend_layer(query, (keys,), (values,), jnp.int32(1), positions, scoring)
    wanted = plainly(query, keys[1], values[1], positions, scoring)
    np.testing.assert_allclose(found[:2], wanted[:2], atol=0.02)
    assert np.all(found[2] == 0)  # past the cache: idle


def test_a_chunk_of_tokens_attends_to_its_layer_of_a_cache():
    tokens = 128  # from the start, from the middle of a block, and 28 of padding behind
    query = 2 * draw(SLOTS, tokens, HEADS, 64)
    positions = jnp.array([0, 60, 156])[:, None] + jnp.arange(tokens)
    keys, values, scoring = cache(1), cache(2), Scoring(0.125)
    found = CUDA.attend_layer(query, (keys,), (values,), jnp.int32(1), positions, scoring)
    wanted = plainly(query, keys[1], values[1], positions, scoring)
    real = np.asarray(positions < LENGTH)
    np.testing.assert_allclose(found[real], wanted[real], atol=0.02)
    assert np.all(found[~real] == 0)


def test_what_kernels_do_not_suit_is_computed_by_xla(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("A kernel was called.")

    monkeypatch.setattr(forest_cuda, "attend", refuse)
    monkeypatch.setattr(decode_cuda, "attend", refuse)
    scoring = Scoring(0.3)
    packing = Packing(np.full((1, 8), 8), np.zeros((1, 8), bool))
    for dim, dtype in ((64, jnp.float32), (80, jnp.bfloat16)):
        x = draw(1, 8, 2, dim).astype(dtype)
        held = x.swapaxes(1, 2)
        CUDA.attend_packed(x, held, held, np.arange(8)[None], packing, None, scoring)
        CUDA.attend_cache(x, [held], [held], np.arange(8)[None], scoring)
        CUDA.attend_cache(x[:, :1], [held], [held], np.array([[7]]), scoring)


@pytest.mark.parametrize(("capability", "suits"), [("9.0", True), ("8.0", False), ("10.0", False)])
def test_kernels_are_for_one_generation_of_gpus(monkeypatch, capability, suits):
    device = types.SimpleNamespace(compute_capability=capability, device_kind="NVIDIA X")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    model = DecoderConfig(
        vocab_size=8, num_layers=1, width=64, num_heads=1, num_kv_heads=1, head_dim=64,
        ffn_width=8, compute_dtype="bfloat16",
    )  # fmt: skip
    cuda = backends.get("cuda")
    by = "Mosaic" if suits else "XLA"
    assert set(cuda.attention_paths(model, (256,), (128,)).values()) == {by}
    told = cuda.gaps(model, (256,), (128,), (256,))
    assert told == [] if suits else "This GPU is a NVIDIA X" in told[0]


def test_heads_of_another_size_are_refused():
    rows, infos = draw(1, 1, 128, 80), jnp.zeros((1, 128, 4), jnp.int32)
    with pytest.raises(ValueError, match="Heads of 80 do not suit .* 64 or 128"):
        forest_cuda.attend(Tiling(1.0), rows, rows, rows, infos, infos[:, :, :2].swapaxes(1, 2))
