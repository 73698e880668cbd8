"""The GRPO loss with every option against plain numpy float64 written from the formulas."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.loss import grpo_loss, kl_penalty, sft_loss

ROWS, TARGETS = 2, 7
# Row 0: steps 1 (3 tokens) and 2 (2 tokens); row 1: step 1 (1 token) and 2 (4 tokens).
STEP_IDS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 2, 0, 0]])
MASK = STEP_IDS > 0
STEPS = [(0, 1), (0, 2), (1, 1), (1, 2)]


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    log_probs = -rng.uniform(0.1, 3.0, (ROWS, TARGETS))
    by_step = np.zeros((ROWS, TARGETS))
    for (row, step), advantage in zip(STEPS, (1.3, -0.7, -1.1, 0.4), strict=True):
        by_step[row][STEP_IDS[row] == step] = advantage
    weights = np.zeros((ROWS, TARGETS))
    for row, step in STEPS:
        members = STEP_IDS[row] == step
        weights[row][members] = 1 / (len(STEPS) * members.sum())
    return {
        "log_probs": log_probs,
        "old": log_probs + rng.normal(0, 0.4, log_probs.shape),
        "ref": log_probs + rng.normal(0, 0.6, log_probs.shape),
        "advantages": by_step,
        "weights": weights,
    }


def by_formula(arrays, config):
    """J step by step and token by token, in Python floats; returns minus J."""
    objective = 0.0
    for row, step in STEPS:
        members = np.flatnonzero(STEP_IDS[row] == step)
        term = 0.0
        for token in members:
            log_ratio = arrays["log_probs"][row, token] - arrays["old"][row, token]
            if config.ratio == "sequence":
                log_ratio = sum(
                    arrays["log_probs"][row, i] - arrays["old"][row, i] for i in members
                ) / len(members)
            ratio = math.exp(log_ratio)
            advantage = arrays["advantages"][row, token]
            surrogate = ratio * advantage
            if config.clip_low is not None or config.clip_high is not None:
                lowest = 1 - config.clip_low if config.clip_low is not None else -math.inf
                highest = 1 + config.clip_high if config.clip_high is not None else math.inf
                surrogate = min(surrogate, min(max(ratio, lowest), highest) * advantage)
            d = arrays["log_probs"][row, token] - arrays["ref"][row, token]
            kl = {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[config.kl_estimator]
            term += surrogate - config.beta * kl
        objective += term / len(members) / len(STEPS)
    return -objective


def loss_of(arrays, config, log_probs=None):
    return grpo_loss(
        jnp.asarray(arrays["log_probs"] if log_probs is None else log_probs, jnp.float32),
        jnp.asarray(arrays["old"], jnp.float32),
        jnp.asarray(arrays["ref"], jnp.float32) if config.beta else None,
        jnp.asarray(arrays["advantages"], jnp.float32),
        jnp.asarray(arrays["weights"], jnp.float32),
        jnp.asarray(STEP_IDS),
        jnp.asarray(MASK),
        config,
    )


CLIPS = [(None, None), (0.2, 0.2), (0.2, 0.28), (0.2, None), (None, 0.2)]
OPTIONS = [
    GRPOConfig(ratio=ratio, clip_low=low, clip_high=high, kl_estimator=kl, beta=beta)
    for ratio, (low, high), (kl, beta) in itertools.product(
        ("token", "sequence"), CLIPS, [("k1", 0.1), ("k2", 0.1), ("k3", 0.5), ("k3", 0.0)]
    )
]


@pytest.mark.parametrize("config", OPTIONS, ids=str)
def test_the_loss_is_the_formula_for_every_combination_of_options(arrays, config):
    loss, _ = loss_of(arrays, config)
    np.testing.assert_allclose(float(loss), by_formula(arrays, config), rtol=2e-6)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_gradient_is_the_finite_difference_of_the_formula(arrays, ratio):
    config = GRPOConfig(ratio=ratio, clip_low=0.2, clip_high=0.3, beta=0.1)
    gradient = jax.grad(lambda lp: loss_of(arrays, config, lp)[0])(
        jnp.asarray(arrays["log_probs"], jnp.float32)
    )
    for row, token in zip(*np.nonzero(MASK), strict=True):
        ends = []
        for shift in (1e-6, -1e-6):
            moved = arrays["log_probs"].copy()
            moved[row, token] += shift
            ends.append(by_formula({**arrays, "log_probs": moved}, config))
        expected = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(gradient[row, token], expected, rtol=1e-4, atol=1e-7)
    assert not np.asarray(gradient)[~MASK].any()


def test_metrics_describe_the_batch(arrays):
    config = GRPOConfig(clip_low=0.2, clip_high=0.2, beta=0.1, kl_estimator="k3")
    loss, metrics = loss_of(arrays, config)
    weights, ratio = arrays["weights"], np.exp(arrays["log_probs"] - arrays["old"])
    advantages = arrays["advantages"]
    clipped = np.where(advantages > 0, ratio > 1.2, ratio < 0.8)
    d = arrays["log_probs"] - arrays["ref"]
    expected = {
        "loss": metrics["policy_loss"] + 0.1 * metrics["kl"],
        "kl": np.sum(weights * (np.exp(-d) - 1 + d)),
        "ratio_mean": np.sum(weights * ratio),
        "ratio_max": ratio[MASK].max(),
        "clip_fraction": np.sum(weights * clipped),
        "advantage_mean": np.sum(weights * advantages),
        "advantage_abs": np.sum(weights * abs(advantages)),
        "sampling_gap_max": abs(arrays["log_probs"] - arrays["old"])[MASK].max(),
    }
    assert 0 < float(metrics["clip_fraction"]) < 1
    assert float(loss) == float(metrics["loss"])
    for name, value in expected.items():
        np.testing.assert_allclose(float(metrics[name]), value, rtol=2e-6, err_msg=name)


def test_padding_may_hold_anything_without_reaching_loss_or_gradient(arrays):
    config = GRPOConfig(ratio="sequence", clip_low=0.2, clip_high=0.2)
    dirty = {name: np.where(MASK, value, np.inf) for name, value in arrays.items()}
    clean, dirty_result = (
        jax.value_and_grad(lambda lp, a=a: loss_of(a, config, lp)[0])(
            jnp.asarray(a["log_probs"], jnp.float32)
        )
        for a in (arrays, dirty)
    )
    np.testing.assert_array_equal(clean[0], dirty_result[0])
    np.testing.assert_array_equal(clean[1], dirty_result[1])


def test_kl_estimators_average_to_the_divergence_of_two_distributions():
    rng = np.random.default_rng(1)
    logits, ref_logits = rng.normal(size=(2, 5))
    log_p = logits - np.log(np.exp(logits).sum())
    log_q = ref_logits - np.log(np.exp(ref_logits).sum())
    divergence = np.sum(np.exp(log_p) * (log_p - log_q))
    for estimator in ("k1", "k3"):  # unbiased: the exact expectation is the divergence
        values = np.asarray(kl_penalty(jnp.asarray(log_p), jnp.asarray(log_q), estimator))
        np.testing.assert_allclose(np.sum(np.exp(log_p) * values), divergence, rtol=1e-5)
    # k2's gradient is the divergence's: the expected score times log p / q.
    grad = jax.grad(lambda d: kl_penalty(d, 0.0, "k2"))(0.7)
    np.testing.assert_allclose(grad, 0.7, rtol=1e-6)


def test_k3_is_never_negative_and_exact_for_small_differences():
    d = np.array([-2.0, -1e-3, 0.0, 1e-3, 2.0])
    values = np.asarray(kl_penalty(jnp.asarray(d, jnp.float32), jnp.zeros(5), "k3"))
    assert (values >= 0).all()
    np.testing.assert_allclose(values[3], np.exp(-1e-3) - 1 + 1e-3, rtol=2e-3)


def test_a_penalty_without_reference_log_probabilities_is_refused(arrays):
    with pytest.raises(ValueError, match="no reference log-probabilities"):
        grpo_loss(
            *(jnp.zeros((1, 1)),) * 2,
            None,
            jnp.zeros((1, 1)),
            jnp.zeros((1, 1)),
            jnp.zeros((1, 1), int),
            jnp.ones((1, 1), bool),
            GRPOConfig(beta=0.1),
        )


def test_sft_loss_is_the_weighted_cross_entropy(arrays):
    loss, _ = sft_loss(
        jnp.asarray(arrays["log_probs"], jnp.float32),
        jnp.asarray(arrays["weights"], jnp.float32),
        jnp.asarray(MASK),
    )
    expected = -np.sum((arrays["weights"] * arrays["log_probs"])[MASK])
    np.testing.assert_allclose(float(loss), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "option, value",
    [
        ("group_size", 1),
        ("beta", -0.1),
        ("beta", float("nan")),
        ("clip_low", 1.5),
        ("clip_high", 0.0),
        ("ratio", "word"),
        ("normalisation", "batch"),
        ("kl_estimator", "k4"),
        ("advantage_eps", 0.0),
        ("epochs", 0),
        ("minibatches", 0),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(option, value):
    with pytest.raises(ValueError, match=rf"grpo\.{option} is "):
        GRPOConfig(**{option: value})
