"""Exact top-k against sorting everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_jax.memory import bank
from agemem_jax.memory.top_k import top_k

run = jax.jit(top_k, static_argnums=1)


def by_sorting(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(scores, order, -1), order


@settings(max_examples=40, deadline=None)
@given(
    entries=st.sampled_from([1, 5, 700, 2000]),
    seed=st.integers(0, 99),
    levels=st.sampled_from([2, 7, 10_000]),
    share=st.sampled_from([0.0, 0.3, 0.99]),
)
def test_it_finds_what_a_stable_sort_finds_ties_and_gaps_included(entries, seed, levels, share):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (3, entries)).astype(np.float32)
    scores[rng.random(scores.shape) < share] = -np.inf
    k = min(entries, 2)
    values, places = map(np.asarray, run(scores, k))
    expected_values, expected_places = by_sorting(scores, k)
    np.testing.assert_array_equal(values, expected_values)
    found = values > -np.inf
    np.testing.assert_array_equal(places[found], expected_places[found])


def test_many_queries_on_one_bank_equal_plain_numpy():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(3000, 16)).astype(np.float32)
    queries = rng.normal(size=(7, 16)).astype(np.float32)
    valid = rng.random(3000) < 0.7
    scores = np.where(valid, queries @ embeddings.T, -np.inf)
    expected_values, expected_places = by_sorting(scores, 5)
    values, places = bank.search(jnp.asarray(embeddings), valid, queries, k=5)
    np.testing.assert_allclose(values, expected_values, rtol=1e-5)
    np.testing.assert_array_equal(places, expected_places)


def test_more_than_there_is_cannot_be_asked_for():
    with pytest.raises(ValueError, match="top_k of 3 scores was asked for 4"):
        top_k(jnp.zeros(3), 4)
