"""Options of the loss beside the paper's, against plain floats written from their definitions."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.loss import corrections, grpo_loss, means_of

STEP_IDS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 2, 0, 0]])
MASK = STEP_IDS > 0
STEPS = [(0, 1), (0, 2), (1, 1), (1, 2)]
PLAIN = GRPOConfig()


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(3)
    shape = STEP_IDS.shape
    log_probs = -rng.uniform(0.1, 3.0, shape)
    old = log_probs + rng.normal(0, 0.8, shape)
    advantages, weights = np.zeros(shape), np.zeros(shape)
    for (row, step), advantage in zip(STEPS, (1.3, -0.7, -1.1, 0.4), strict=True):
        members = STEP_IDS[row] == step
        advantages[row][members] = advantage
        old[row][members] -= 0.9 * (advantage < 0)  # ratios that a dual clip meets
        weights[row][members] = 1 / (len(STEPS) * members.sum())
    return {
        "log_probs": log_probs,
        "old": old,
        "sampler": old + rng.normal(0, 0.5, shape),
        "ref": log_probs + rng.normal(0, 0.9, shape),
        "entropy": rng.uniform(0.0, 2.0, shape),
        "advantages": advantages,
        "weights": weights,
    }


def clamped(value, most):
    return value if most is None else max(-most, min(most, value))


def correction(arrays, config, row, token, members):
    """c of one token, and what it is made into."""
    span = members if config.correction_level == "sequence" else [token]
    c = 1.0
    for i in span:
        c *= math.exp(arrays["old"][row, i]) / math.exp(arrays["sampler"][row, i])
    if c <= config.correction_cap:
        return c, c
    return c, config.correction_cap if config.correction == "truncate" else 0.0


def by_formula(arrays, config):
    """Minus J, token by token."""
    objective = 0.0
    for row, step in STEPS:
        members = np.flatnonzero(STEP_IDS[row] == step).tolist()
        for token in members:
            log_ratio = arrays["log_probs"][row, token] - arrays["old"][row, token]
            if config.ratio == "sequence":
                log_ratio = np.mean(
                    [arrays["log_probs"][row, i] - arrays["old"][row, i] for i in members]
                )
            ratio = math.exp(clamped(log_ratio, config.log_ratio_clamp))
            advantage = arrays["advantages"][row, token]
            term = ratio * advantage
            if config.clip_low is not None:
                bounded = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
                term = min(term, bounded * advantage)
            if config.clip_dual is not None and advantage < 0:
                term = max(term, config.clip_dual * advantage)
            if config.correction is not None:
                term *= correction(arrays, config, row, token, members)[1]
            d = clamped(
                arrays["log_probs"][row, token] - arrays["ref"][row, token], config.log_ratio_clamp
            )
            term -= (
                config.beta
                * {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[config.kl_estimator]
            )
            term += config.entropy_weight * arrays["entropy"][row, token]
            objective += arrays["weights"][row, token] * term
    return -objective


def loss_of(arrays, config, log_probs=None, entropy=None, **given):
    arguments = [arrays["log_probs"] if log_probs is None else log_probs]
    arguments += [arrays[name] for name in ("old", "ref", "advantages", "weights")]
    arguments = [jnp.asarray(each, jnp.float32) for each in arguments]
    given = {"sampler_log_probs": jnp.asarray(arrays["sampler"], jnp.float32)} | given
    entropy = jnp.asarray(arrays["entropy"], jnp.float32) if entropy is None else entropy
    return grpo_loss(
        *arguments, jnp.asarray(STEP_IDS), jnp.asarray(MASK), config, entropy=entropy, **given
    )


CORRECTIONS = [
    {"correction": kind, "correction_level": level, "correction_cap": 1.1}
    for kind, level in itertools.product(("truncate", "mask"), ("token", "sequence"))
]
OPTIONS = [
    GRPOConfig(**options, **more, ratio=ratio)
    for ratio, more, options in itertools.product(
        ("token", "sequence"),
        ({}, {"clip_low": 0.2, "clip_high": 0.3, "clip_dual": 1.5, "log_ratio_clamp": 0.6}),
        (
            *CORRECTIONS,
            {"clip_dual": 1.2},
            {"log_ratio_clamp": 0.3, "kl_estimator": "k1"},
            {"log_ratio_clamp": 0.3, "kl_estimator": "k2"},
            {"entropy_weight": 0.7, "beta": 0.0},
            {"entropy_weight": 0.7, **CORRECTIONS[0]},
        ),
    )
    if not more.keys() & options.keys()
]


@pytest.mark.parametrize("config", OPTIONS, ids=str)
def test_the_loss_is_the_formula_for_every_option(arrays, config):
    loss, _ = loss_of(arrays, config)
    np.testing.assert_allclose(float(loss), by_formula(arrays, config), rtol=3e-6)
    plain = dataclasses.replace(PLAIN, ratio=config.ratio, beta=config.beta)
    assert abs(by_formula(arrays, config) - by_formula(arrays, plain)) > 1e-3  # each does something


@pytest.mark.parametrize("config", [OPTIONS[0], OPTIONS[3], OPTIONS[-4], OPTIONS[-1]], ids=str)
def test_the_gradient_is_the_finite_difference_of_the_formula(arrays, config):
    """With what samples and the old policy held fixed: the correction has no gradient."""
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


def test_options_that_change_nothing_leave_the_loss_as_it_is_to_the_bit(arrays):
    """Bounds that nothing meets, and factors of one."""
    expected = loss_of(arrays, PLAIN, sampler_log_probs=None)[0]
    for options in (
        {"clip_dual": 1e6}, {"log_ratio_clamp": 1e6}, {"clip_low": 1.0}, {"entropy_weight": 0.0},
        {"baseline": "leave_one_out"},
    ):  # fmt: skip
        found = loss_of(arrays, dataclasses.replace(PLAIN, **options), sampler_log_probs=None)[0]
        assert float(found) == float(expected), options
    same = jnp.asarray(arrays["old"], jnp.float32)
    for options in CORRECTIONS:
        found = loss_of(arrays, GRPOConfig(**options), sampler_log_probs=same)[0]
        assert float(found) == float(expected), options


@pytest.mark.parametrize("options", CORRECTIONS, ids=str)
def test_metrics_tell_how_much_was_corrected(arrays, options):
    config = GRPOConfig(**options)
    _, metrics = loss_of(arrays, config)
    weights, found = arrays["weights"], {}
    for row, step in STEPS:
        members = np.flatnonzero(STEP_IDS[row] == step).tolist()
        for token in members:
            found[row, token] = correction(arrays, config, row, token, members)
    mean = sum(weights[place] * used for place, (_, used) in found.items())
    share = sum(weights[place] * (c > 1.1) for place, (c, _) in found.items())
    d = arrays["sampler"] - arrays["old"]
    assert 0 < share < 1
    for name, value in (
        ("correction_mean", mean), ("correction_share", share),
        ("correction_max", max(c for c, _ in found.values())),
        ("sampling_kl", np.sum(weights * (np.exp(-d) - 1 + d))),
        ("sampling_gap_max", abs(arrays["log_probs"] - arrays["sampler"])[MASK].max()),
    ):  # fmt: skip
        np.testing.assert_allclose(float(metrics[name]), value, rtol=1e-5, err_msg=name)


def test_the_share_of_objectives_that_the_dual_clip_raised_is_told(arrays):
    _, metrics = loss_of(arrays, GRPOConfig(clip_dual=1.5))
    ratio = np.exp(arrays["log_probs"] - arrays["old"])
    raised = (arrays["advantages"] < 0) & (ratio > 1.5)
    assert 0 < raised.sum() < MASK.sum()
    expected = np.sum(arrays["weights"] * raised)
    np.testing.assert_allclose(float(metrics["clip_dual_fraction"]), expected, rtol=1e-6)


def test_padding_may_hold_anything_in_what_the_options_read(arrays):
    config = GRPOConfig(**CORRECTIONS[1], entropy_weight=0.1, log_ratio_clamp=0.5, clip_dual=1.5)
    dirty = {name: np.where(MASK, value, np.nan) for name, value in arrays.items()}
    clean, other = (
        jax.value_and_grad(lambda lp, a=a: loss_of(a, config, lp)[0])(
            jnp.asarray(a["log_probs"], jnp.float32)
        )
        for a in (arrays, dirty)
    )
    np.testing.assert_array_equal(clean[0], other[0])
    np.testing.assert_array_equal(clean[1], other[1])


def test_a_correction_of_a_token_that_the_sampler_could_hardly_draw_stays_finite():
    far = jnp.asarray([[200.0, -200.0]])
    for kind, expected in (("truncate", [2.0, 0.0]), ("mask", [0.0, 0.0])):
        factor, _ = corrections(
            far, jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.ones((1, 2), int),
            jnp.ones((1, 2), bool), GRPOConfig(correction=kind),
        )  # fmt: skip
        np.testing.assert_allclose(factor[0], expected, atol=1e-30)


def test_means_are_means_though_constant_weights_do_not_add_up_to_one(arrays):
    """Each token weighs 1 / (3 trajectories x 10 tokens), the loss in full and means by share."""
    weights = np.where(MASK, 1 / 30, 0.0)
    config = GRPOConfig(normalisation="constant", constant_length=10, entropy_weight=0.1)
    loss, told = loss_of({**arrays, "weights": weights}, config)
    expected = by_formula({**arrays, "weights": weights}, config)
    np.testing.assert_allclose(float(loss), expected, rtol=3e-6)
    metrics = means_of(told)
    assert "weight_sum" not in metrics
    ratio = np.exp(arrays["log_probs"] - arrays["old"])
    np.testing.assert_allclose(float(metrics["ratio_mean"]), ratio[MASK].mean(), rtol=1e-5)
    np.testing.assert_allclose(float(metrics["loss"]), expected, rtol=3e-6)
    assert float(metrics["ratio_max"]) == float(told["ratio_max"])


@pytest.mark.parametrize(
    "options, given, told",
    [
        ({"correction": "mask"}, {"sampler_log_probs": None}, "no log-probabilities of the sampl"),
        ({"entropy_weight": 0.1}, {"entropy": False}, "no entropies"),
    ],
)
def test_what_an_option_needs_is_asked_for(arrays, options, given, told):
    given = {name: value or None for name, value in given.items()}
    arguments = {"sampler_log_probs": jnp.zeros((1, 1)), "entropy": jnp.zeros((1, 1))} | given
    with pytest.raises(ValueError, match=told):
        grpo_loss(
            *(jnp.zeros((1, 1)),) * 5, jnp.zeros((1, 1), int), jnp.ones((1, 1), bool),
            GRPOConfig(**options), **arguments,
        )  # fmt: skip


@pytest.mark.parametrize(
    "option, value",
    [
        ("clip_dual", 1.0), ("clip_dual", 0.5), ("log_ratio_clamp", 0.0), ("log_ratio_clamp", -1.0),
        ("constant_length", 0), ("entropy_weight", -0.1), ("baseline", "median"),
        ("correction", "clip"), ("correction_level", "step"), ("correction_cap", 0.0),
        ("max_resample_rounds", -1), ("renew_reference_every", -1),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_its_name(option, value):
    with pytest.raises(ValueError, match=rf"grpo\.{option} is ") as error:
        GRPOConfig(**{option: value})
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, names",
    [
        ({"constant_length": 100}, ("constant_length", "normalisation")),
        ({"correction": "mask", "rescore_old": False}, ("correction", "rescore_old")),
        ({"renew_reference_every": 5, "beta": 0.0}, ("renew_reference_every", "beta")),
    ],
)
def test_options_that_contradict_each_other_are_refused_by_both_names(options, names):
    with pytest.raises(ValueError) as error:
        GRPOConfig(**options)
    assert all(f"grpo.{name}" in str(error.value) for name in names)


def test_several_updates_on_one_batch_are_clipped_unless_something_else_is_said():
    for options in ({"epochs": 2}, {"minibatches": 3}):
        config = GRPOConfig(**options)
        assert (config.clip_low, config.clip_high) == (0.2, 0.2)
        one_side = GRPOConfig(**options, clip_low=1.0)
        assert (one_side.clip_low, one_side.clip_high) == (1.0, None)
    assert (PLAIN.clip_low, PLAIN.clip_high) == (None, None)


@pytest.mark.parametrize(
    "options, rounded, dropout, expected",
    [
        ({}, False, False, "recorded"),
        ({}, True, False, "updated"),
        ({}, True, True, "scored"),
        ({"epochs": 2}, True, False, "scored"),
        ({"correction": "mask"}, False, False, "updated"),
        ({"correction": "mask", "minibatches": 2}, False, False, "scored"),
        ({"rescore_old": True}, False, False, "updated"),
        ({"rescore_old": False}, True, False, "recorded"),
    ],
)
def test_the_old_policy_is_scored_where_that_says_something_else_than_was_recorded(
    options, rounded, dropout, expected
):
    assert GRPOConfig(**options).old_log_probs(rounded, dropout) == expected
