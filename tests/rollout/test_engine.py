import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models import decoder
from agemem_jax.rollout import decoding
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import EngineConfig, GenerationRequest
from agemem_jax.rollout.prefixes import common_prefix

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


def test_slots_that_take_over_from_each_other_at_once_get_what_they_asked_for(
    model, weights, engine_config
):
    config = dataclasses.replace(engine_config, prefill_rows=1)
    first, second, third = prompts(40, 40, 40)
    moved = Engine(config, model, STOP)
    moved.load(weights)
    run(moved, *[request(s, p) for s, p in enumerate((first, second, third))])
    # Every slot is asked for what another one holds, in a circle.
    asked = [request(s, p, seed=s) for s, p in enumerate((second, third, first))]
    before = moved.stats.prefilled_tokens
    done = run(moved, *asked)
    assert moved.stats.prefilled_tokens - before <= 40  # one of the circle is overwritten
    fresh = Engine(config, model, STOP)
    fresh.load(weights)
    expected = run(fresh, *asked)
    assert {s: g.token_ids for s, g in done.items()} == {
        s: g.token_ids for s, g in expected.items()
    }


def test_a_call_has_few_rows_or_all_in_place_and_gives_the_same(
    model, weights, engine_config, monkeypatch
):
    calls, prefill = [], decoding.prefill

    def watched(*args, **options):
        slots, tokens = args[4:6]
        calls.append((len(tokens), slots is None))
        return prefill(*args, **options)

    monkeypatch.setattr(decoding, "prefill", watched)
    generated = []
    for most, fewer in ((3, ()), (4, (1,))):
        config = dataclasses.replace(engine_config, prefill_rows=most, prefill_fewer_rows=fewer)
        engine = Engine(config, model, STOP)
        engine.load(weights)
        calls.clear()
        alone, *later = prompts(50, 20, 25, 30)
        engine.submit(request(2, alone, max_tokens=30))
        done = {each.slot: each for each in engine.step()}
        for slot, prompt in zip((0, 1, 3), later, strict=True):  # while the first one decodes
            engine.submit(request(slot, prompt, seed=slot))
        while engine.pending:
            done.update({each.slot: each for each in engine.step()})
        generated.append(done)
        assert calls == ([(3, False)] * 2 if most == 3 else [(1, False), (4, True)])
    for slot, first in generated[0].items():
        assert generated[1][slot].token_ids == first.token_ids
        np.testing.assert_allclose(generated[1][slot].log_probs, first.log_probs, atol=1e-5)


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

    def compilations():
        functions = decoding.decode_chunk, decoding.prefill, decoding.copy, decoding.admit
        return [function._cache_size() for function in functions]

    for seed in range(4):
        round_of(seed)
    before = compilations()
    for seed in range(4, 8):
        round_of(seed)
    assert compilations() == before


def test_a_prompt_that_does_not_fit_is_refused_in_a_sentence(engine):
    with pytest.raises(ValueError, match=r"620 tokens .* engine.max_length = 624"):
        engine.submit(request(0, [3] * 620))


def test_common_prefix_counts_equal_leading_tokens():
    assert common_prefix((1, 2, 3), (1, 2, 4, 5)) == 2
    assert common_prefix((), (1,)) == 0
    assert common_prefix((1, 2), (1, 2, 3)) == 2


def test_what_a_group_begins_with_is_computed_once_and_changes_nothing(
    model, weights, engine_config, engine
):
    shared, *rests = prompts(100, 5, 40, 1, 9)
    asked = [request(s, shared + r, seed=s) for s, r in enumerate(rests)]
    alone = {}
    for each in asked:
        other = Engine(engine_config, model, STOP)
        other.load(weights)
        alone |= run(other, each)
    done = run(engine, *asked)
    assert {s: g.token_ids for s, g in done.items()} == {s: g.token_ids for s, g in alone.items()}
    # The last token of a prompt is fed by decoding.
    assert engine.stats.prefilled_tokens == 100 + 4 + 39 + 0 + 8
    assert engine.stats.copied_tokens == 3 * 100
    # A later request finds a longer start in another slot than in its own.
    before = dataclasses.replace(engine.stats)
    late = request(0, [*asked[1].prompt[:120], 7, 7], seed=9)
    generation = run(engine, late)[0]
    assert engine.stats.prefilled_tokens - before.prefilled_tokens == 1
    assert engine.stats.copied_tokens - before.copied_tokens == 20
    expected = reference_log_probs(model, weights, late.prompt, generation.token_ids)
    np.testing.assert_allclose(generation.log_probs, expected, atol=1e-4)


def test_a_long_prompt_holds_up_nothing_that_decodes(model, weights, engine_config):
    config = dataclasses.replace(engine_config, prefill_calls=1, chunk=1)
    engine = Engine(config, model, STOP)
    engine.load(weights)
    short, long = prompts(3, 500)
    engine.submit(request(0, short, max_tokens=40, temperature=0.0))
    engine.step()
    engine.submit(request(1, long))
    steps_before = engine.stats.busy_slot_steps
    calls = 0
    while 1 not in engine._running:
        engine.step()
        calls += 1
    assert calls >= 500 // config.prefill_buckets[-1]
    assert engine.stats.busy_slot_steps - steps_before >= calls


def test_top_k_and_top_p_draw_from_the_restricted_distribution(model, weights, engine):
    asked = [
        dataclasses.replace(request(0, prompts(20)[0], seed=1), top_k=3),
        dataclasses.replace(request(1, prompts(20)[0], seed=1), top_p=0.5, temperature=2.0),
        request(2, prompts(20)[0], seed=1),
    ]
    done = run(engine, *asked)
    for each in asked:
        tokens = done[each.slot].token_ids
        ids = jnp.asarray([[*each.prompt, *tokens]])
        hidden = decoder.forward(model, weights, ids, jnp.arange(ids.shape[1])[None])
        logits = decoder.unembed(model, weights, hidden[0, len(each.prompt) - 1 : -1])
        for row, token, recorded in zip(
            np.asarray(logits, np.float64) / each.temperature, tokens, done[each.slot].log_probs,
            strict=True,
        ):  # fmt: skip
            order = np.argsort(-row)
            share = np.exp(row - row.max())
            share /= share.sum()
            kept = len(row) if not each.top_k else each.top_k
            kept = min(kept, 1 + int(np.sum(np.cumsum(share[order]) < each.top_p)))
            allowed = order[:kept]
            assert token in allowed
            expected = np.log(share[token] / share[allowed].sum())
            assert recorded == pytest.approx(expected, abs=1e-4)


def test_a_text_ends_a_response_and_what_lies_behind_is_cut(model, weights, engine_config):
    engine = Engine(engine_config, model, STOP, decode=lambda ids: " ".join(map(str, ids)) + " ")
    engine.load(weights)
    (prompt,) = prompts(30)
    whole = run(engine, request(0, prompt, max_tokens=40))[0]
    assert len(whole.token_ids) > 6
    text = f" {whole.token_ids[4]} {whole.token_ids[5]} "
    cut = run(engine, dataclasses.replace(request(1, prompt, max_tokens=40), stop=(text,)))[1]
    assert cut.token_ids == whole.token_ids[:6]
    np.testing.assert_allclose(cut.log_probs, whole.log_probs[:6], atol=1e-5)
    # The slot goes on as if nothing had lain behind.
    again = run(engine, request(1, [*prompt, *cut.token_ids, 5], seed=3))[1]
    expected = reference_log_probs(model, weights, [*prompt, *cut.token_ids, 5], again.token_ids)
    np.testing.assert_allclose(again.log_probs, expected, atol=1e-4)


def test_settings_that_make_no_sense_are_refused(engine):
    (prompt,) = prompts(5)
    for change, words in (
        ({"top_k": -1}, "top_k is -1"), ({"top_p": 0.0}, "top_p 0.0"), ({"stop": ("a",)}, "decode"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            engine.submit(dataclasses.replace(request(0, prompt), **change))
    engine.submit(request(0, prompt))
    with pytest.raises(ValueError, match="Slot 0 is busy"):
        engine.submit(request(0, prompt))


def test_few_slots_decode_in_fewer_rows_with_the_same_result(model, weights, engine_config, engine):
    config = dataclasses.replace(engine_config, decode_rows=(1, 2))
    other = Engine(config, model, STOP)
    other.load(weights)
    asked = [request(s, p, seed=s, max_tokens=4 + 9 * s) for s, p in enumerate(prompts(9, 20, 30))]
    plain, few = run(engine, *asked), run(other, *asked)
    assert {s: g.token_ids for s, g in few.items()} == {s: g.token_ids for s, g in plain.items()}
    assert other.stats.busy_slot_steps == engine.stats.busy_slot_steps
    assert other.stats.slot_steps < engine.stats.slot_steps


def test_the_next_chunk_may_run_while_the_host_reads_the_last_one(
    model, weights, engine_config, engine
):
    asked = [request(s, p, seed=s) for s, p in enumerate(prompts(5, 40, 150, 290))]
    plain = run(engine, *asked)
    ahead = Engine(dataclasses.replace(engine_config, overlap=True), model, STOP)
    ahead.load(weights)
    for each in asked:
        ahead.submit(each)
    assert ahead.step() == []  # nothing is read before the second step
    done = {}
    while ahead.pending:
        for generation in ahead.step():
            done[generation.slot] = generation
    assert {s: g.token_ids for s, g in done.items()} == {s: g.token_ids for s, g in plain.items()}
    again = run(ahead, *asked)
    assert {s: g.token_ids for s, g in again.items()} == {s: g.token_ids for s, g in plain.items()}


def test_a_cache_in_parts_gives_the_same_result(model, weights, engine_config, engine):
    config = dataclasses.replace(engine_config, attend_buckets=(32, 64, 256), decode_rows=(2,))
    other = Engine(config, model, STOP)
    shared, *rests = prompts(40, 3, 30, 70)
    asked = [request(s, [*shared, *rest], seed=s) for s, rest in enumerate(rests)]
    other.load(weights, shared_prefix=shared)
    plain, cut = run(engine, *asked), run(other, *asked)
    for slot, generation in plain.items():
        assert cut[slot].token_ids == generation.token_ids
        np.testing.assert_allclose(cut[slot].log_probs, generation.log_probs, atol=1e-5)


def test_a_chunk_ends_when_slots_fall_idle_with_the_same_result(
    model, weights, engine_config, engine
):
    other = Engine(dataclasses.replace(engine_config, idle_slots=1), model, STOP)
    other.load(weights)
    done, steps = [], []
    for each in (engine, other):
        for slot, (prompt, limit) in enumerate(zip(prompts(9, 20), (3, 24), strict=True)):
            each.submit(request(slot, prompt, seed=slot, max_tokens=limit))
        first = {generation.slot: generation.token_ids for generation in each.step()}
        steps.append(each.stats.slot_steps // engine_config.slots)
        done.append(first | {slot: g.token_ids for slot, g in run(each).items()})
    assert done[0] == done[1]
    assert steps == [engine_config.chunk, len(done[0][0])]


def test_a_chunk_of_known_length_gives_the_same_and_runs_to_its_end(
    model, weights, engine_config, engine
):
    whole = Engine(dataclasses.replace(engine_config, idle_slots=0), model, STOP)
    whole.load(weights)
    asked = [request(s, p, seed=s, max_tokens=3 + 7 * s) for s, p in enumerate(prompts(9, 20))]
    plain, done = run(engine, *asked), run(whole, *asked)
    for slot, generation in plain.items():
        assert done[slot].token_ids == generation.token_ids
        np.testing.assert_array_equal(done[slot].log_probs, generation.log_probs)


def test_what_none_stands_for_depends_on_the_device_and_the_model(model):
    config = EngineConfig()
    found = {name: config.resolved(name, "bfloat16") for name in ("cpu", "gpu", "tpu")}
    assert [each.overlap for each in found.values()] == [False, True, True]
    assert [each.idle_slots for each in found.values()] == [4, 0, 4]
    assert {each.cache_dtype for each in found.values()} == {"bfloat16"}
    assert [each.weights for each in found.values()] == ["as_trained", "stacked", "as_trained"]
    assert config.resolved("gpu", "bfloat16", devices=2).weights == "as_trained"
    given = EngineConfig(overlap=True, idle_slots=2, cache_dtype="float32", weights="int8")
    assert given.resolved("cpu", "bfloat16") == given
    half = dataclasses.replace(model, compute_dtype="bfloat16")
    assert Engine(config, half, STOP).config == config.resolved("cpu", "bfloat16")
