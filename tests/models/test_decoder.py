"""The decoder against transformers on torch, and its ways of running against each other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import decoder, kv_cache
from agemem_jax.models.backends.plain import Plain
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.models.log_probs import token_log_probs

CONFIG = DecoderConfig(
    vocab_size=61, num_layers=2, width=32, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=48
)
LENGTH = 12
CACHE = 16
forward = jax.jit(decoder.forward, static_argnums=0)
forward_cached = jax.jit(decoder.forward_cached, static_argnums=0)
init_cache = functools.partial(kv_cache.init_cache, length=CACHE, dtype=jnp.float32)


@functools.cache
def sharp_params():
    """Random weights, larger than at initialisation, so that attention is not uniform."""
    return jax.tree.map(
        lambda x: x * 8 if x.ndim > 1 else x, decoder.init_params(CONFIG, jax.random.key(0))
    )


def random_tokens(rows: int, length: int = LENGTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 61, (rows, length)).astype(np.int32)


def plain(config: DecoderConfig, weights: Weights, tokens: np.ndarray) -> jax.Array:
    """Hidden states of rows that hold one segment each."""
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return forward(config, weights, tokens, positions)


def test_logits_of_every_family_equal_those_of_transformers(family_oracle):
    oracle, tokens = family_oracle, random_tokens(2)
    weights = Weights(oracle.params)
    logits = decoder.unembed(oracle.config, weights, plain(oracle.config, weights, tokens))
    assert logits.dtype == jnp.float32
    expected = oracle.logits(tokens)
    assert np.abs(expected).max() > 1.0
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_prefill_in_chunks_and_decoding_equal_one_pass():
    tokens, weights = random_tokens(2), Weights(sharp_params())
    expected = plain(CONFIG, weights, tokens)
    cache, states = init_cache(CONFIG, 2), []
    for start, end in [(0, 4), (4, 8), *((i, i + 1) for i in range(8, LENGTH))]:
        positions = np.broadcast_to(np.arange(start, end, dtype=np.int32), (2, end - start))
        hidden, cache = forward_cached(CONFIG, weights, tokens[:, start:end], positions, cache)
        states.append(hidden)
    np.testing.assert_allclose(jnp.concatenate(states, 1), expected, atol=1e-5)


def test_slots_of_different_lengths_decode_as_if_alone():
    lengths, weights = (3, 7), Weights(sharp_params())
    tokens = random_tokens(2)
    positions = np.full((2, 8), CACHE, np.int32)  # past the cache: padding
    for slot, length in enumerate(lengths):
        positions[slot, :length] = np.arange(length)
    cache = init_cache(CONFIG, 2)
    _, cache = forward_cached(CONFIG, weights, tokens[:, :8], positions, cache)
    for held in (*(part.swapaxes(2, 3) for (part,) in cache.k), *(part for (part,) in cache.v)):
        for slot, length in enumerate(lengths):
            assert np.all(np.asarray(held[slot, :, length:]) == 0), "padding wrote into the cache"
            assert np.all(np.any(np.asarray(held[slot, :, :length]) != 0, axis=-1))
    feed = np.array([[tokens[slot, length]] for slot, length in enumerate(lengths)])
    hidden, _ = forward_cached(CONFIG, weights, feed, np.array(lengths, np.int32)[:, None], cache)
    expected = plain(CONFIG, weights, tokens)
    for slot, length in enumerate(lengths):
        np.testing.assert_allclose(hidden[slot, 0], expected[slot, length], atol=1e-5)


def test_a_cache_in_parts_gives_what_one_piece_gives():
    weights, tokens = Weights(sharp_params()), random_tokens(2)
    expected = plain(CONFIG, weights, tokens)
    cache = init_cache(CONFIG, 2, cuts=(3, 8))
    assert [part.shape[2] for part in cache.v[0]] == [3, 5, CACHE - 8]
    positions = np.broadcast_to(np.arange(6, dtype=np.int32), (2, 6))
    hidden, first = forward_cached(CONFIG, weights, tokens[:, :6], positions, cache.first(2))
    np.testing.assert_allclose(hidden, expected[:, :6], atol=1e-5)
    cache = cache.with_first(first)
    for index in range(6, LENGTH):
        feed, place = tokens[:, index : index + 1], np.full((2, 1), index, np.int32)
        hidden, cache = forward_cached(CONFIG, weights, feed, place, cache)
        np.testing.assert_allclose(hidden[:, 0], expected[:, index], atol=1e-5)


def test_a_rewound_slot_forgets_what_lay_behind():
    weights, tokens = Weights(sharp_params()), random_tokens(2)
    positions = np.arange(LENGTH, dtype=np.int32)[None]
    cache = init_cache(CONFIG, 1)
    _, cache = forward_cached(CONFIG, weights, tokens[:1], positions, cache)
    other = np.concatenate([tokens[:1, :4], tokens[1:, 4:]], axis=1)
    hidden, _ = forward_cached(CONFIG, weights, other[:, 4:], positions[:, 4:], cache)
    expected = plain(CONFIG, weights, other)[:, 4:]
    np.testing.assert_allclose(hidden, expected, atol=1e-5)


def packed_row(first: np.ndarray, second: np.ndarray, pad_token: int):
    """Two segments and two padding tokens, one of them between the segments."""
    tokens = np.concatenate([first, [pad_token], second, [pad_token]])[None].astype(np.int32)
    ends = np.full(len(first), len(first)), np.full(len(second), len(first) + 1 + len(second))
    visible_to = np.concatenate([ends[0], [0], ends[1], [0]])[None].astype(np.int32)
    positions = np.concatenate([np.arange(len(first)), [0], np.arange(len(second)), [0]])
    return tokens, positions[None].astype(np.int32), visible_to


def test_packed_segments_equal_rows_of_their_own():
    first, second = random_tokens(1, 4)[0], random_tokens(1, 6, seed=1)[0]
    weights = Weights(sharp_params())
    hidden = forward(CONFIG, weights, *packed_row(first, second, pad_token=0))[0]
    together = np.zeros((2, LENGTH), np.int32)
    together[0, :4], together[1, :6] = first, second
    alone = plain(CONFIG, weights, together)  # what follows a token cannot reach it
    np.testing.assert_allclose(hidden[:4], alone[0, :4], atol=1e-5)
    np.testing.assert_allclose(hidden[5:11], alone[1, :6], atol=1e-5)


def test_sequences_that_share_their_start_equal_rows_of_their_own(monkeypatch):
    """A forest: 3 shared tokens, then two branches, the first of which branches again."""
    monkeypatch.setattr(Plain, "block", 5)
    tokens, weights = random_tokens(1, LENGTH)[0], Weights(sharp_params())
    visible_to = np.array([11, 11, 11, 8, 8, 6, 8, 8, 11, 11, 11, 0], np.int32)
    positions = np.array([0, 1, 2, 3, 4, 5, 5, 6, 3, 4, 5, 0], np.int32)
    paths = ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 6, 7], [0, 1, 2, 8, 9, 10])
    run = jax.jit(lambda *row: decoder.forward(CONFIG, weights, *row))
    hidden = run(tokens[None], positions[None], visible_to[None])[0]
    alone = np.zeros((3, LENGTH), np.int32)
    for row, path in enumerate(paths):
        alone[row, : len(path)] = tokens[path]
    alone = plain(CONFIG, weights, alone)
    for row, path in enumerate(paths):
        np.testing.assert_allclose(hidden[np.array(path)], alone[row, : len(path)], atol=1e-5)


def test_rows_longer_than_a_block_of_queries_equal_transformers(oracle, monkeypatch):
    monkeypatch.setattr(Plain, "block", 5)  # 12 tokens: two whole blocks and a part
    tokens, weights = random_tokens(2), Weights(oracle.params)
    positions = np.broadcast_to(np.arange(LENGTH), tokens.shape)
    run = jax.jit(lambda *row: decoder.forward(oracle.config, weights, *row))  # traced anew
    logits = decoder.unembed(oracle.config, weights, run(tokens, positions))
    np.testing.assert_allclose(logits, oracle.logits(tokens), atol=1e-4, rtol=0)


def test_segments_behind_a_shared_prefix_equal_rows_that_begin_with_it(monkeypatch):
    monkeypatch.setattr(Plain, "block", 5)
    prefix = random_tokens(1, 3, seed=2)[0]
    first, second = random_tokens(1, 4)[0], random_tokens(1, 6, seed=1)[0]
    weights = Weights(sharp_params())
    tokens, positions, visible_to = packed_row(first, second, pad_token=0)
    uses_prefix = visible_to == len(first)  # the second segment stands alone
    positions = positions + 3 * uses_prefix
    run = jax.jit(lambda *row: decoder.forward(CONFIG, weights, *row))
    hidden = run(tokens, positions, visible_to, prefix, uses_prefix)[0]
    together = np.zeros((2, LENGTH), np.int32)
    together[0, :7], together[1, :6] = np.concatenate([prefix, first]), second
    alone = plain(CONFIG, weights, together)
    np.testing.assert_allclose(hidden[:4], alone[0, 3:7], atol=1e-5)
    np.testing.assert_allclose(hidden[5:11], alone[1, :6], atol=1e-5)


def test_padding_changes_no_bit_of_a_real_token_and_gives_no_nan():
    first, second = random_tokens(1, 4)[0], random_tokens(1, 6, seed=1)[0]
    weights = Weights(sharp_params())
    real = np.r_[0:4, 5:11]
    one = forward(CONFIG, weights, *packed_row(first, second, pad_token=0))[0]
    other = forward(CONFIG, weights, *packed_row(first, second, pad_token=37))[0]
    np.testing.assert_array_equal(one[real], other[real])
    assert np.any(np.asarray(one[11]) != np.asarray(other[11])), "the padding was not varied"
    nothing = np.zeros((1, LENGTH), np.int32)
    assert np.all(np.isfinite(forward(CONFIG, weights, nothing, nothing, nothing)))


def test_gradients_do_not_reach_padding():
    first, second = random_tokens(1, 4)[0], random_tokens(1, 6, seed=1)[0]
    row = packed_row(first, second, pad_token=60)
    assert 60 not in (*first, *second)

    @jax.jit
    def gradient(params):
        def loss(params):
            hidden = decoder.forward(CONFIG, Weights(params), *row)
            return jnp.sum(jnp.where(row[2][..., None] > 0, hidden, 0.0) ** 2)

        return jax.grad(loss)(params)["embedding"]

    gradients = np.asarray(gradient(sharp_params()))
    assert np.all(gradients[60] == 0) and np.any(gradients[first[0]] != 0)


def test_rematerialised_layers_give_the_same_gradients():
    tokens = random_tokens(1)
    zeros = np.zeros_like(tokens)

    def gradient(config):
        def loss(params):
            return jnp.sum(decoder.forward(config, Weights(params), tokens, zeros) ** 2)

        return jax.jit(jax.grad(loss))(sharp_params())

    kept, again = gradient(CONFIG), gradient(dataclasses.replace(CONFIG, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), kept, again)


def test_bfloat16_rounds_activations_only_and_logits_stay_float32():
    tokens, weights = random_tokens(2), Weights(sharp_params())
    half = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    hidden = plain(half, weights, tokens)
    assert hidden.dtype == jnp.bfloat16
    logits = decoder.unembed(half, weights, hidden)
    assert logits.dtype == jnp.float32
    exact = decoder.unembed(CONFIG, weights, plain(CONFIG, weights, tokens))
    # Two layers of products of 32 to 48 terms, each term off by at most 2**-8.
    error = np.linalg.norm(logits - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.03


LORA = dataclasses.replace(CONFIG, lora_rank=2, lora_alpha=6.0, lora_targets=("q_proj", "up_proj"))


def test_fresh_lora_matrices_change_nothing():
    tokens, lora = random_tokens(2), decoder.init_lora(LORA, jax.random.key(1))
    with_lora = plain(LORA, Weights(sharp_params(), lora), tokens)
    np.testing.assert_array_equal(with_lora, plain(CONFIG, Weights(sharp_params()), tokens))
    targets = {name for layer in lora.values() for part in layer.values() for name in part}
    assert targets == {"q_proj", "up_proj"}


def test_merged_lora_equals_unmerged_and_the_formula():
    tokens, params = random_tokens(2), sharp_params()
    lora = jax.tree.map(
        lambda x: 0.3 * jax.random.normal(jax.random.key(x.size), x.shape),
        decoder.init_lora(LORA, jax.random.key(1)),
    )
    merged = decoder.merge_lora(LORA, params, lora)
    name = ("layer_0", "attention", "q_proj")
    kernel, base, low = (functools.reduce(dict.get, name, t) for t in (merged, params, lora))
    np.testing.assert_allclose(
        kernel["kernel"],
        np.asarray(base["kernel"]) + 3.0 * np.asarray(low["a"]) @ np.asarray(low["b"]),
        atol=1e-6,
    )
    unmerged = plain(LORA, Weights(params, lora), tokens)
    np.testing.assert_allclose(unmerged, plain(LORA, Weights(merged), tokens), atol=2e-5)
    assert np.abs(unmerged - plain(LORA, Weights(params), tokens)).max() > 0.1


def test_log_probabilities_and_entropies_equal_plain_numpy():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(11, CONFIG.width)).astype(np.float32)
    targets = rng.integers(0, CONFIG.vocab_size, 11)
    params = sharp_params()
    logits = hidden.astype(np.float64) @ np.asarray(params["embedding"], np.float64).T / 0.7
    logits -= logits.max(-1, keepdims=True)
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    entropies = -(np.exp(log_softmax) * log_softmax).sum(-1)
    for chunk in (4, 64):  # 4 does not divide 11; 64 is more than there are
        log_probs, entropy = token_log_probs(
            CONFIG, Weights(params), hidden, targets, temperature=0.7, chunk=chunk
        )
        np.testing.assert_allclose(log_probs, log_softmax[np.arange(11), targets], atol=1e-5)
        np.testing.assert_allclose(entropy, entropies, atol=1e-5)


def test_no_array_over_all_tokens_and_the_vocabulary_exists_in_the_backward_pass():
    tokens, chunk = 64, 4

    def loss(params, hidden):
        targets = jnp.zeros(tokens, jnp.int32)
        return token_log_probs(CONFIG, Weights(params), hidden, targets, chunk=chunk)[0].sum()

    lowered = jax.jit(jax.grad(loss)).lower(sharp_params(), jnp.zeros((tokens, CONFIG.width)))
    text = lowered.compile().as_text()
    assert f"f32[{chunk},{CONFIG.vocab_size}]" in text
    assert f"[{tokens},{CONFIG.vocab_size}]" not in text
    assert f"[{tokens // chunk},{chunk},{CONFIG.vocab_size}]" not in text


def test_every_parameter_and_lora_matrix_names_each_of_its_axes():
    untied = dataclasses.replace(LORA, tied_embeddings=False)
    pairs = [
        (decoder.abstract_params(untied), decoder.logical_axes(untied)),
        (decoder.init_lora(untied, jax.random.key(0)), decoder.lora_logical_axes(untied)),
    ]
    for arrays, names in pairs:
        ranks = jax.tree.map(lambda array, spec: (array.ndim, len(spec)), arrays, names)
        for array_rank, named in jax.tree.leaves(ranks, is_leaf=lambda x: isinstance(x, tuple)):
            assert array_rank == named


@pytest.mark.parametrize(
    "change", [{"num_kv_heads": 3}, {"compute_dtype": "int8"}, {"lora_targets": ("query",)}]
)
def test_a_contradictory_configuration_is_refused_by_name(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(CONFIG, **change)


def test_the_kernels_of_tpus_give_what_plain_attention_gives(monkeypatch):
    monkeypatch.setattr(Plain, "block", 8)
    config = dataclasses.replace(CONFIG, backend="tpu_interpreted")
    prefix = random_tokens(1, 3, seed=2)[0]
    row = packed_row(random_tokens(1, 4)[0], random_tokens(1, 6, seed=1)[0], pad_token=0)
    weights, real = Weights(sharp_params()), np.r_[0:4, 5:11]
    behind = row[2] == 4
    inputs = (row[0], row[1] + 3 * behind, row[2], prefix, behind)
    found, wanted = (
        jax.jit(functools.partial(decoder.forward, each))(weights, *inputs)[0]
        for each in (config, CONFIG)
    )
    np.testing.assert_allclose(found[real], wanted[real], atol=1e-5)

    tokens = random_tokens(2)
    order = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)

    def last(config):
        cache = kv_cache.init_cache(config, 2, 128, jnp.float32)
        _, cache = forward_cached(config, weights, tokens[:, :-1], order[:, :-1], cache)
        return forward_cached(config, weights, tokens[:, -1:], order[:, -1:], cache)[0]

    np.testing.assert_allclose(last(config), last(CONFIG), atol=1e-5)
