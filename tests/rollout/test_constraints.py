"""Masks over the vocabulary, requests that end early, and what the engine tells of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.rollout.constraints import token_masks
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import GenerationRequest
from agemem_jax.rollout.sampling import allowed_only

STOP = 2


class Alternating:
    """Allows even tokens, then odd ones, and so on; counts what it is told."""

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary
        self.told = []

    def mask(self):
        bits = np.zeros(-(-self.vocabulary // 32) * 32, np.uint8)
        bits[len(self.told) % 2 : self.vocabulary : 2] = 1
        bits[STOP] = 0
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def accept(self, token):
        self.told.append(token)


@pytest.fixture
def engine(model, weights, engine_config):
    engine = Engine(engine_config, model, STOP)
    engine.load(weights)
    return engine


def request(slot, max_tokens=12, temperature=1.0, constraint=None, seed=0):
    prompt = tuple(np.random.default_rng(slot).integers(3, 1000, 20).tolist())
    return GenerationRequest(
        slot, prompt, max_tokens, jax.random.key(seed), temperature, constraint=constraint
    )


def finish(engine, *requests):
    for each in requests:
        engine.submit(each)
    done = {}
    while engine.pending:
        done |= {generation.slot: generation for generation in engine.step()}
    return done


def test_bits_of_a_mask_are_tokens():
    logits = jnp.arange(70.0)[None]
    masks = np.array([[1 << 31 | 1, 0, 1 << 5]], np.uint32)
    kept = np.flatnonzero(np.isfinite(allowed_only(logits, masks)[0]))
    assert kept.tolist() == [0, 31, 69]


def test_rows_without_a_constraint_may_draw_anything():
    assert token_masks({0: None, 1: None}, 2, 40) is None
    masks = token_masks({0: Alternating(40), 1: None}, 3, 40)
    assert masks.shape == (3, 2)
    assert (masks[1:] == 0xFFFFFFFF).all()
    assert masks[0, 0] == 0x55555555 - (1 << STOP)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_binds_its_own_request_only(engine, model, temperature):
    constraint = Alternating(model.vocab_size)
    free = request(1, temperature=0.0)
    alone = finish(engine, free)[1]
    done = finish(engine, request(0, temperature=temperature, constraint=constraint), free)
    tokens = done[0].token_ids
    assert len(tokens) == 12 and [token % 2 for token in tokens] == [0, 1] * 6
    assert tuple(constraint.told) == tokens
    assert done[1].token_ids == alone.token_ids


def test_a_cancelled_request_gives_nothing_and_its_slot_serves_the_next(engine):
    other = request(1, temperature=0.0)
    alone = finish(engine, other)[1]
    engine.submit(request(0, max_tokens=60, seed=1))
    engine.submit(request(2, max_tokens=60))
    engine.cancel(2)  # it has not begun
    engine.step()
    assert len(engine.progress(0)[0]) == engine.config.chunk
    engine.cancel(0)
    engine.cancel(3)  # which has nothing
    assert not engine.pending
    assert finish(engine, other)[1].token_ids == alone.token_ids
    again = finish(engine, request(0, max_tokens=60, seed=1))[0]
    assert again.prefilled == 0  # the prompt is held still


def test_a_generation_tells_how_many_tokens_of_its_prompt_were_computed(engine):
    first = request(0)
    assert finish(engine, first)[0].prefilled == len(first.prompt) - 1
    longer = GenerationRequest(1, (*first.prompt, 7, 8, 9), 4, first.key)
    # Of its context of 22 tokens, the other slot holds the first prompt whole.
    assert finish(engine, longer)[1].prefilled == 2
