"""The step-wise GRPO loss and the warm-up's cross entropy, small enough to check by eye.

Both work on targets: action tokens laid out as [row, target], each with the weight
that packing gave it. The weights carry the whole normalisation (packing.py), so the
losses of several microbatches simply add up to the loss of the batch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agemem_jax.training.credit import registry
from agemem_jax.training.credit.rule import CreditRule

RATIOS = ("token", "sequence")
NORMALISATIONS = ("step", "trajectory", "token")
KL_ESTIMATORS = ("k1", "k2", "k3")


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """Options of the policy update (section 3.4).

    Attributes:
      group_size: K, rollouts per task.
      beta: weight of the KL penalty; 0 needs no reference model.
      clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high], PPO's
        way; None leaves that side open. Unequal values give "clip-higher".
      ratio: "token", or "sequence": one length-normalised ratio per step.
      normalisation: what counts equally: every "step" (the paper), every
        "trajectory", or every "token".
      kl_estimator: "k1", "k2" or "k3".
      advantage_eps: epsilon of the advantage's denominator.
      normalise_std: divide advantages by the group's standard deviation.
      drop_zero_variance: leave groups whose rewards are all equal out of the batch;
        otherwise their steps count in |E| and only the KL term moves them.
      epochs: passes over one rollout batch.
      minibatches: optimiser steps per pass, each on a share of the trajectories.
      credit: how rewards become the advantages of steps and tokens: a rule by name
        (`credit/registry.py`), as `package.module:attribute`, or itself; options may stand
        behind the name, as in "gigpo(discount=0.9)".
      credit_options: of the rule.
    """

    group_size: int = 8
    beta: float = 0.1
    clip_low: float | None = None
    clip_high: float | None = None
    ratio: str = "token"
    normalisation: str = "step"
    kl_estimator: str = "k3"
    advantage_eps: float = 1e-6
    normalise_std: bool = True
    drop_zero_variance: bool = False
    epochs: int = 1
    minibatches: int = 1
    credit: str | Callable[..., CreditRule] = "broadcast"
    credit_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self):
        if self.group_size < 2:
            raise ValueError(
                f"grpo.group_size is {self.group_size}; advantages compare rollouts of one "
                "task, so it must be at least 2."
            )
        if not 0.0 <= self.beta < float("inf"):
            raise ValueError(f"grpo.beta is {self.beta}; it must be a finite number from 0 up.")
        if self.clip_low is not None and not 0.0 < self.clip_low <= 1.0:
            raise ValueError(
                f"grpo.clip_low is {self.clip_low}; it must be in (0, 1], or None for no clipping."
            )
        if self.clip_high is not None and not 0.0 < self.clip_high < float("inf"):
            raise ValueError(
                f"grpo.clip_high is {self.clip_high}; it must be positive, or None for no clipping."
            )
        for name, allowed in (
            ("ratio", RATIOS),
            ("normalisation", NORMALISATIONS),
            ("kl_estimator", KL_ESTIMATORS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"grpo.{name} is {getattr(self, name)!r}; it must be one of "
                    f"{', '.join(allowed)}."
                )
        if not 0.0 < self.advantage_eps < float("inf"):
            raise ValueError(f"grpo.advantage_eps is {self.advantage_eps}; it must be positive.")
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"grpo.{name} is {getattr(self, name)}; it must be at least 1.")
        rule, options = registry.complete(self.credit, self.credit_options)
        object.__setattr__(self, "credit", rule)
        object.__setattr__(self, "credit_options", options)


def kl_penalty(
    log_probs: Float[Array, "*shape"], ref_log_probs: Float[Array, "*shape"], estimator: str
) -> Float[Array, "*shape"]:
    """Estimates KL(pi || pi_ref) at tokens sampled from pi; d = log pi - log pi_ref.

        k1 = d        k2 = d^2 / 2        k3 = exp(-d) - 1 + d

    k1 is unbiased as a value, but as a loss its expected gradient on policy is zero;
    k2 has the gradient of the KL; k3 is unbiased, never negative and varies less.
    """
    difference = log_probs - ref_log_probs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    return jnp.expm1(-difference) + difference


def step_means(
    values: Float[Array, "row target"],
    mask: Bool[Array, "row target"],
    step_ids: Int[Array, "row target"],
) -> Float[Array, "row target"]:
    """At every target, the mean of `values` over the masked targets of its step.

    `step_ids` are in [0, target] and name a step uniquely within its row.
    """

    def one_row(values, mask, step_ids):
        slots = values.shape[0] + 1
        total = jax.ops.segment_sum(jnp.where(mask, values, 0.0), step_ids, slots)
        count = jax.ops.segment_sum(mask.astype(values.dtype), step_ids, slots)
        return (total / jnp.maximum(count, 1.0))[step_ids]

    return jax.vmap(one_row)(values, mask, step_ids)


def grpo_loss(
    log_probs: Float[Array, "row target"],
    old_log_probs: Float[Array, "row target"],
    ref_log_probs: Float[Array, "row target"] | None,
    advantages: Float[Array, "row target"],
    weights: Float[Array, "row target"],
    step_ids: Int[Array, "row target"],
    mask: Bool[Array, "row target"],
    config: GRPOConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The negative objective of step-wise GRPO (section 3.4).

        J(theta) = 1/|E| sum_q sum_k sum_t [ rho_{k,t} A_{k,t} - beta KL(pi || pi_ref) ]

    A step's term is the mean over its n action tokens i, so with the default options

        J(theta) = sum_i w_i [ rho_i A_i - beta KL_i ]
        w_i   = 1 / (|E| n)        rho_i = pi(token_i) / pi_old(token_i)
        KL_i  = the `kl_estimator` of `kl_penalty`

    and the options change it so:

        ratio = "sequence"   rho_i = exp(mean over the step's tokens of log pi - log pi_old)
        clip_low, clip_high  rho A becomes min(rho A, clip(rho, 1 - low, 1 + high) A)
        normalisation        "trajectory": w_i = 1 / (trajectories * steps of this one * n)
                             "token":      w_i = 1 / (action tokens of the batch)
        beta = 0             no KL term, `ref_log_probs` may be None

    Args:
      log_probs: log pi of every target under the parameters being trained.
      old_log_probs: the same under the parameters that sampled.
      ref_log_probs: the same under the reference; None when beta is 0.
      advantages: of the target: A_k of its trajectory, or what `credit` makes of it.
      weights: w_i, made by packing; they add up to 1 over the batch.
      step_ids: which targets share a step, unique within a row.
      mask: false where a target is padding.
      config: options.

    Returns:
      (loss, metrics). Metrics of microbatches add up, except those that end in "_max",
      of which the largest counts; means are taken with the weights.
    """
    # Padding may hold anything; zeroed here, it meets no exponential further on.
    log_probs, old_log_probs, advantages, weights = (
        jnp.where(mask, values, 0.0) for values in (log_probs, old_log_probs, advantages, weights)
    )
    log_ratio = log_probs - old_log_probs
    gap = jnp.max(jnp.abs(log_ratio))
    if config.ratio == "sequence":
        log_ratio = step_means(log_ratio, mask, step_ids)
    ratio = jnp.exp(log_ratio)

    objective = ratio * advantages
    clipped = jnp.zeros_like(ratio)
    if config.clip_low is not None or config.clip_high is not None:
        low = 0.0 if config.clip_low is None else 1.0 - config.clip_low
        high = jnp.inf if config.clip_high is None else 1.0 + config.clip_high
        bounded = jnp.clip(ratio, low, high) * advantages
        clipped = (bounded < objective).astype(ratio.dtype)
        objective = jnp.minimum(objective, bounded)
    policy_loss = -jnp.sum(weights * objective)

    loss, kl = policy_loss, jnp.zeros(())
    if config.beta > 0.0:
        if ref_log_probs is None:
            raise ValueError(
                f"grpo_loss got no reference log-probabilities although grpo.beta is "
                f"{config.beta}; score the batch with the reference first."
            )
        ref_log_probs = jnp.where(mask, ref_log_probs, 0.0)
        kl = jnp.sum(weights * kl_penalty(log_probs, ref_log_probs, config.kl_estimator))
        loss = policy_loss + config.beta * kl

    metrics = {
        "loss": loss,
        "policy_loss": policy_loss,
        "kl": kl,
        "ratio_mean": jnp.sum(weights * ratio),
        "ratio_max": jnp.max(jnp.where(mask, ratio, 0.0)),
        "clip_fraction": jnp.sum(weights * clipped),
        "advantage_mean": jnp.sum(weights * advantages),
        "advantage_abs": jnp.sum(weights * jnp.abs(advantages)),
        "sampling_gap_max": gap,
    }
    return loss, metrics


def sft_loss(
    log_probs: Float[Array, "row target"],
    weights: Float[Array, "row target"],
    mask: Bool[Array, "row target"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Cross entropy of demonstrated actions, weighted as packing says.

    L(theta) = - sum_i w_i log pi(token_i)
    """
    loss = -jnp.sum(jnp.where(mask, weights * log_probs, 0.0))
    return loss, {"loss": loss}
