"""Whether the device's kernels compute what plain attention in float32 computes there."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from agemem_jax.models import backends, decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import Generation, GenerationRequest
from experiments.benchmarks.accelerator import attention, generation
from experiments.benchmarks.accelerator.sizes import Sizes
from experiments.benchmarks.timing import Case, Timing

_NEVER = -1  # a stop token that is never sampled
_LAYERS = 4  # of the model that decodes
_SLOTS = 4
_ROW = 2048  # tokens of the row, at most: plain scores in float32 have to fit
# Of the largest value: bfloat16 has 8 bits, and gradients come from sums of rounded products.
_MOST = {"forward": 2.0, "gradients": 4.0}


def run(sizes: Sizes, repeats: int) -> Iterator[Case]:
    """Cases of attention along a forest, of gradients that repeat, and of greedy decoding."""
    del repeats  # nothing is timed
    yield from _attention(sizes)
    yield from _decoding(sizes)


def _attention(sizes: Sizes) -> Iterator[Case]:
    smaller = min(sizes.row, _ROW)
    sizes = dataclasses.replace(
        sizes, row=smaller, prompt_of_row=min(sizes.prompt_of_row, smaller // 2)
    )
    forest, _ = attention.make_forest(sizes)
    inputs = attention.draw(sizes)
    backend = attention.along(backends.get("auto"), sizes, forest)
    plain = attention.along(backends.get("plain"), sizes, forest)
    exact = [each.astype(jnp.float32) for each in inputs]
    gradient = jax.jit(attention.with_gradient(backend))
    found = jax.jit(backend)(*inputs), *gradient(*inputs)
    with jax.default_matmul_precision("highest"):
        wanted = jax.jit(plain)(*exact), *jax.jit(attention.with_gradient(plain))(*exact)
    errors = [_error(*pair) for pair in zip(found, wanted, strict=True)]
    name = f"attention along {sizes.row} tokens in bfloat16 against plain in float32"
    for part, error in (("forward", errors[0]), ("gradients", max(errors[1:]))):
        yield Case(
            f"{name}: {part}, largest error of the largest value", Timing((error,), "%"),
            {"at most": Timing((_MOST[part],), "%")}, wanted={"at most": 1.0},
        )  # fmt: skip
    again = gradient(*inputs)
    same = all(
        np.array_equal(np.asarray(a).view(np.uint16), np.asarray(b).view(np.uint16))
        for a, b in zip(found[1:], again, strict=True)
    )
    yield Case(
        "gradients of attention, twice: the same to the bit", Timing((float(same),), "of 1"),
        {"wanted": Timing((1.0,), "of 1")}, wanted={"wanted": 1.0},
    )  # fmt: skip


def _error(found: jax.Array, wanted: jax.Array) -> float:
    """Per cent of the largest value that is wanted; at least a little, so that ratios exist."""
    difference = jnp.abs(found.astype(jnp.float32) - wanted)
    return max(1e-3, 100 * float(jnp.max(difference) / jnp.max(jnp.abs(wanted))))


def _decoding(sizes: Sizes) -> Iterator[Case]:
    """Greedy continuations, with what plain float32 thinks of each token."""
    config = dataclasses.replace(
        sizes.model, num_layers=min(sizes.model.num_layers, _LAYERS), vocab_size=1024
    )
    weights = generation.random_weights(config)
    prompts = np.random.default_rng(0).integers(10, config.vocab_size, (_SLOTS, sizes.prompt))
    found = continue_greedily(config, weights, sizes, prompts)
    sampled = np.array([each.token_ids for each in found])
    log_probs = np.array([each.log_probs for each in found])
    wanted, best = score_plainly(config, weights, np.concatenate([prompts, sampled], axis=1))
    wanted, best = wanted[:, sizes.prompt - 1 :], best[:, sizes.prompt - 1 :]
    name = f"{_SLOTS} greedy continuations of {sizes.new} tokens, {config.num_layers} layers"
    yield Case(
        f"{name}: log-probabilities, largest difference from plain float32",
        Timing((float(np.abs(log_probs - wanted).max()),), "nats"),
    )
    yield Case(
        f"{name}: how much likelier plain float32 finds another token, at most",
        Timing((float((best - wanted).max()),), "nats"),
        note="0 where each token is the one that it would take; roundings decide near ties",
    )


def continue_greedily(
    config: DecoderConfig, weights: Weights, sizes: Sizes, prompts: np.ndarray
) -> list[Generation]:
    """What the engine takes to be the likeliest tokens, by slot."""
    engine = Engine(generation.engine_config(sizes, len(prompts)), config, _NEVER)
    engine.load(weights)
    for slot, tokens in enumerate(prompts.tolist()):
        key = jax.random.key(slot)
        engine.submit(GenerationRequest(slot, tuple(tokens), sizes.new, key, temperature=0.0))
    found = []
    while engine.pending:
        found += engine.step()
    return sorted(found, key=lambda each: each.slot)


def score_plainly(
    config: DecoderConfig, weights: Weights, tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of tokens behind the first, and of the likeliest in the place of each."""
    exact = dataclasses.replace(config, compute_dtype="float32", backend="plain")
    weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), weights)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1] - 1), tokens[:, 1:].shape)

    @jax.jit
    def score(weights, inputs, targets):
        hidden = decoder.forward(exact, weights, inputs, positions)
        logits = decoder.unembed(exact, weights, hidden)
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        own = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
        return own, log_probs.max(axis=-1)

    with jax.default_matmul_precision("highest"):
        return jax.device_get(score(weights, tokens[:, :-1], tokens[:, 1:]))
