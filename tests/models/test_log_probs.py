"""Gradients of log-probabilities and entropies against float64 written from their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.models.log_probs import token_log_probs

TEMPERATURE = 0.7
ROWS, TARGETS, WIDTH, VOCABULARY = 2, 5, 4, 11


@pytest.fixture(scope="module")
def problem():
    """A decoder's end, states, targets, and weights of both results in a sum."""
    config = DecoderConfig(
        vocab_size=VOCABULARY, width=WIDTH, num_layers=1, num_heads=2, num_kv_heads=1,
        head_dim=2, ffn_width=4,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    return config, {
        "table": rng.normal(size=(VOCABULARY, WIDTH)),
        "hidden": rng.normal(size=(ROWS, TARGETS, WIDTH)),
        "targets": rng.integers(0, VOCABULARY, (ROWS, TARGETS)),
        "of_log_probs": rng.normal(size=(ROWS, TARGETS)),
        "of_entropies": rng.normal(size=(ROWS, TARGETS)),
    }


def by_definition(values):
    """sum a log p(target) + b H, all in float64, over arrays of all logits."""
    logits = values["hidden"] @ values["table"].T / TEMPERATURE
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    chosen = np.take_along_axis(np.log(p), values["targets"][..., None], -1)[..., 0]
    entropy = -np.sum(p * np.log(p), axis=-1)
    return float(np.sum(values["of_log_probs"] * chosen + values["of_entropies"] * entropy))


def differences(values, name, step=1e-6):
    """The gradient of `by_definition` by central differences."""
    gradient = np.zeros_like(values[name])
    for place in np.ndindex(gradient.shape):
        ends = []
        for shift in (step, -step):
            moved = values[name].copy()
            moved[place] += shift
            ends.append(by_definition({**values, name: moved}))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def gradients(config, values, chunk, entropy_gradient=True):
    """Of the same sum by the library, in float32."""
    name = "embedding" if config.tied_embeddings else "output"

    def total(table, hidden):
        log_probs, entropy = token_log_probs(
            config, Weights({name: table}), hidden, jnp.asarray(values["targets"]),
            temperature=TEMPERATURE, chunk=chunk, entropy_gradient=entropy_gradient,
        )  # fmt: skip
        return jnp.sum(values["of_log_probs"] * log_probs + values["of_entropies"] * entropy)

    table, hidden = (jnp.asarray(values[n], jnp.float32) for n in ("table", "hidden"))
    return jax.value_and_grad(total, argnums=(0, 1))(table, hidden)


@pytest.mark.parametrize("chunk", [2, 3, 64])
def test_gradients_of_log_probabilities_and_entropies_are_those_of_the_definition(problem, chunk):
    """In chunks that fill up, that do not, and in one that holds everything."""
    config, values = problem
    value, (of_table, of_hidden) = gradients(config, values, chunk)
    np.testing.assert_allclose(float(value), by_definition(values), rtol=1e-5)
    for found, name in ((of_table, "table"), (of_hidden, "hidden")):
        expected = differences(values, name)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * abs(expected).max())


def test_without_being_asked_for_entropies_have_no_gradient(problem):
    config, values = problem
    alone = {**values, "of_entropies": np.zeros((ROWS, TARGETS))}
    _, without = gradients(config, values, 3, entropy_gradient=False)
    _, expected = gradients(config, alone, 3, entropy_gradient=False)
    for found, wanted in zip(without, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_no_array_of_all_targets_and_all_logits_is_made(problem):
    """Forwards and backwards, with the gradient of entropies too."""
    config, values = problem
    text = str(jax.make_jaxpr(lambda: gradients(config, values, 2))())
    for shape in (f"f32[{ROWS},{TARGETS},{VOCABULARY}]", f"f32[{ROWS * TARGETS},{VOCABULARY}]"):
        assert shape not in text
    assert f"f32[2,{VOCABULARY}]" in text
