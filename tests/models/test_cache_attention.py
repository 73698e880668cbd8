"""TPU kernels over caches, interpreted, against plain attention with a mask."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import backends
from agemem_jax.models.attention import Scoring, attend_cache
from agemem_jax.models.kernels import decode_pallas
from agemem_jax.models.kernels.forest import Tiling

SLOTS, HEADS, KV_HEADS, LENGTH, DIM = 5, 6, 2, 32, 8
TILING = Tiling(scale=0.4, keys=8, interpret=True)


@pytest.mark.parametrize("cache_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "change", [{}, {"softcap": 1.5}, {"window": 10}], ids=["plain", "softcap", "window"]
)
def test_a_token_attends_to_its_cache_as_with_a_mask(change, cache_dtype):
    tiling = dataclasses.replace(TILING, **change)
    keys = jax.random.split(jax.random.key(0), 3)
    query = 2 * jax.random.normal(keys[0], (SLOTS, HEADS, DIM))
    cache = [
        jax.random.normal(key, (SLOTS, KV_HEADS, LENGTH, DIM)).astype(cache_dtype)
        for key in keys[1:]
    ]
    positions = jnp.array([0, 7, 8, 30, LENGTH])  # the last one is past the cache: idle
    found = decode_pallas.attend(query, *cache, positions, tiling)
    scoring = Scoring(tiling.scale, tiling.softcap, tiling.window)
    one_part = (cache[0].swapaxes(2, 3),), (cache[1],)
    wanted = attend_cache(query[:, None], *one_part, positions[:, None], scoring)[:, 0]
    np.testing.assert_allclose(found[:4], wanted[:4], atol=2e-6)
    assert np.all(found[4] == 0)


def test_what_lies_behind_the_token_is_not_read():
    query = jnp.ones((1, HEADS, DIM))
    cache = jnp.ones((1, KV_HEADS, LENGTH, DIM)).at[:, :, 8:].set(jnp.nan)
    found = decode_pallas.attend(query, cache, cache, jnp.array([7]), TILING)
    np.testing.assert_allclose(found, 1.0, atol=1e-6)


def test_a_cache_that_does_not_divide_into_blocks_is_refused():
    cache = jnp.ones((1, KV_HEADS, 30, DIM))
    with pytest.raises(ValueError, match="30 tokens does not divide into blocks of 8"):
        decode_pallas.attend(jnp.ones((1, HEADS, DIM)), cache, cache, jnp.array([7]), TILING)


@pytest.mark.parametrize(
    "change", [{}, {"softcap": 1.5}, {"window": 100}], ids=["plain", "softcap", "window"]
)
def test_a_chunk_of_tokens_attends_to_its_cache_as_with_a_mask(change):
    tokens, length, slots = 128, 256, 3
    keys = jax.random.split(jax.random.key(0), 3)
    query = 2 * jax.random.normal(keys[0], (slots, tokens, HEADS, DIM))
    cache = [jax.random.normal(key, (slots, KV_HEADS, length, DIM)) for key in keys[1:]]
    # From the start, from the middle of a block, and 28 of padding behind the last token.
    positions = jnp.array([0, 60, 156])[:, None] + jnp.arange(tokens)
    scoring = Scoring(0.4, **change)
    kernels = backends.get("tpu_interpreted")
    found = kernels.attend_cache(query, [cache[0]], [cache[1]], positions, scoring)
    wanted = attend_cache(query, [cache[0].swapaxes(2, 3)], [cache[1]], positions, scoring)
    real = np.asarray(positions < length)
    np.testing.assert_allclose(found[real], wanted[real], atol=2e-6)
    assert np.all(found[~real] == 0)
