import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import decoder
from agemem_jax.rollout import decoding
from agemem_jax.rollout.engine import Engine, GenerationRequest, common_prefix

STOP = 2


def run(engine, *requests):
    for request in requests:
        engine.submit(request)
    done = {}
    while engine.pending:
        done.update({generation.slot: generation for generation in engine.step()})
    return done


def request(slot, prompt, seed=0, max_tokens=12, temperature=1.0):
    return GenerationRequest(slot, tuple(prompt), max_tokens, jax.random.key(seed), temperature)


def reference_log_probs(model, weights, prompt, tokens, temperature=1.0):
    """One plain forward pass over prompt and response."""
    ids = jnp.asarray([[*prompt, *tokens]])
    positions = jnp.arange(ids.shape[1])[None]
    hidden = decoder.forward(model, weights, ids, positions)
    logits = decoder.unembed(model, weights, hidden[0, len(prompt) - 1 : -1]) / temperature
    return np.asarray(jax.nn.log_softmax(logits)[jnp.arange(len(tokens)), jnp.asarray(tokens)])


@pytest.fixture
def engine(model, weights, engine_config):
    engine = Engine(engine_config, model, STOP)
    engine.load(weights)
    return engine


def prompts(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 1000, length).tolist() for length in lengths]


def test_recorded_log_probs_are_those_of_a_plain_forward_pass(engine, model, weights):
    asked = [request(s, p, seed=s) for s, p in enumerate(prompts(5, 40, 150, 290))]
    done = run(engine, *asked)
    for each in asked:
        tokens = done[each.slot].token_ids
        expected = reference_log_probs(model, weights, each.prompt, tokens)
        np.testing.assert_allclose(done[each.slot].log_probs, expected, atol=1e-4)


def test_a_generation_ends_at_the_stop_token_or_at_its_limit(engine):
    done = run(engine, *[request(s, p, seed=s) for s, p in enumerate(prompts(9, 9, 9, 9))])
    for generation in done.values():
        assert len(generation.token_ids) <= 12
        assert STOP not in generation.token_ids[:-1]
        assert len(generation.token_ids) == 12 or generation.token_ids[-1] == STOP


def test_appending_and_editing_reuse_the_longest_common_prefix(engine, model, weights):
    (prompt,) = prompts(200)
    first = run(engine, request(1, prompt))[1]
    before = dataclasses.replace(engine.stats)
    longer = [*prompt, *first.token_ids, 7, 8, 9]
    second = run(engine, request(1, longer, seed=1))[1]
    # New tokens, less the one that decoding feeds, plus the last sampled one.
    assert engine.stats.prefilled_tokens - before.prefilled_tokens == 3
    edited = longer[:100] + longer[120:]
    third = run(engine, request(1, edited, seed=2))[1]
    for ids, generation in ((longer, second), (edited, third)):
        expected = reference_log_probs(model, weights, ids, generation.token_ids)
        np.testing.assert_allclose(generation.log_probs, expected, atol=1e-4)


def test_a_shared_prefix_is_prefilled_once_and_changes_nothing(
    model, weights, engine_config, engine
):
    shared, *rests = prompts(64, 5, 6, 7, 8)
    plain = run(engine, *[request(s, shared + r, seed=s) for s, r in enumerate(rests)])
    other = Engine(engine_config, model, STOP)
    other.load(weights, shared_prefix=shared)
    done = run(other, *[request(s, shared + r, seed=s) for s, r in enumerate(rests)])
    assert {s: g.token_ids for s, g in done.items()} == {s: g.token_ids for s, g in plain.items()}
    assert other.stats.prefilled_tokens == 64 + 4 + 5 + 6 + 7


def test_a_generation_depends_neither_on_its_slot_nor_on_its_neighbours(
    model, weights, engine_config, engine
):
    alone, *others = prompts(50, 20, 90, 130)
    first = run(engine, request(0, alone, seed=5))[0]
    other = Engine(engine_config, model, STOP)
    other.load(weights)
    crowd = [request(slot, p, seed=slot + 10) for slot, p in enumerate(others)]
    second = run(other, *crowd, request(3, alone, seed=5))[3]
    assert first.token_ids == second.token_ids
    np.testing.assert_allclose(first.log_probs, second.log_probs, atol=1e-5)


def test_temperature_zero_is_greedy(engine, model, weights):
    (prompt,) = prompts(30)
    tokens = run(engine, request(2, prompt, temperature=0.0))[2].token_ids
    ids = list(prompt)
    for token in tokens[:4]:
        length = len(ids)
        padded = jnp.asarray([ids + [0] * (48 - length)])
        hidden = decoder.forward(model, weights, padded, jnp.arange(48)[None])
        logits = decoder.unembed(model, weights, hidden[0, length - 1])
        assert int(jnp.argmax(logits)) == token
        ids.append(token)


def test_nothing_recompiles_in_steady_state(engine):
    def round_of(seed):
        lengths = np.random.default_rng(seed).integers(3, 400, 4)
        run(engine, *[request(s, p) for s, p in enumerate(prompts(*lengths, seed=seed))])

    for seed in range(4):
        round_of(seed)
    before = decoding.decode_chunk._cache_size(), decoding.prefill._cache_size()
    for seed in range(4, 8):
        round_of(seed)
    assert (decoding.decode_chunk._cache_size(), decoding.prefill._cache_size()) == before


def test_a_prompt_that_does_not_fit_is_refused_in_a_sentence(engine):
    with pytest.raises(ValueError, match=r"620 tokens .* engine.max_length = 624"):
        engine.submit(request(0, [3] * 620))


def test_common_prefix_counts_equal_leading_tokens():
    assert common_prefix((1, 2, 3), (1, 2, 4, 5)) == 2
    assert common_prefix((), (1,)) == 0
    assert common_prefix((1, 2), (1, 2, 3)) == 2
