"""The step-wise GRPO loss and the warm-up's cross entropy, small enough to check by eye.

Both work on targets: action tokens laid out as [row, target], each with the weight
that packing gave it. The weights carry the whole normalisation (packing.py), so the
losses of several microbatches simply add up to the loss of the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agemem_jax.training.configuration.grpo_config import GRPOConfig


def kl_penalty(
    log_probs: Float[Array, "*shape"],
    ref_log_probs: Float[Array, "*shape"],
    estimator: str,
    clamp: float | None = None,
) -> Float[Array, "*shape"]:
    """Estimates KL(pi || pi_ref) at tokens sampled from pi; d = log pi - log pi_ref.

        k1 = d        k2 = d^2 / 2        k3 = exp(-d) - 1 + d

    k1 is unbiased as a value, but as a loss its expected gradient on policy is zero;
    k2 has the gradient of the KL; k3 is unbiased, never negative and varies less. With `clamp`
    d is kept in [-clamp, clamp], and has no gradient where it would leave that.
    """
    difference = _clamped(log_probs - ref_log_probs, clamp)
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    return jnp.expm1(-difference) + difference


def _clamped(values: Float[Array, "*shape"], most: float | None) -> Float[Array, "*shape"]:
    return values if most is None else jnp.clip(values, -most, most)


def step_means(
    values: Float[Array, "row target"],
    mask: Bool[Array, "row target"],
    step_ids: Int[Array, "row target"],
) -> Float[Array, "row target"]:
    """At every target, the mean of `values` over the masked targets of its step.

    `step_ids` are in [0, target] and name a step uniquely within its row.
    """

    counts = step_sums(mask.astype(values.dtype), mask, step_ids)
    return step_sums(values, mask, step_ids) / jnp.maximum(counts, 1.0)


def step_sums(
    values: Float[Array, "row target"],
    mask: Bool[Array, "row target"],
    step_ids: Int[Array, "row target"],
) -> Float[Array, "row target"]:
    """At every target, the sum of `values` over the masked targets of its step."""

    def one_row(values, mask, step_ids):
        total = jax.ops.segment_sum(jnp.where(mask, values, 0.0), step_ids, values.shape[0] + 1)
        return total[step_ids]

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
    *,
    sampler_log_probs: Float[Array, "row target"] | None = None,
    entropy: Float[Array, "row target"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The negative objective of step-wise GRPO (section 3.4).

        J(theta) = 1/|E| sum_q sum_k sum_t [ rho_{k,t} A_{k,t} - beta KL(pi || pi_ref) ]

    A step's term is the mean over its n action tokens i, so with the default options

        J(theta) = sum_i w_i [ rho_i A_i - beta KL_i ]
        w_i   = 1 / (|E| n)        rho_i = pi(token_i) / pi_old(token_i)
        KL_i  = the `kl_estimator` of `kl_penalty`

    and the options change it so:

        ratio = "sequence"   rho_i = exp(mean over the step's tokens of log pi - log pi_old)
        log_ratio_clamp      log rho_i, and the KL's d_i, are kept in [-clamp, clamp]
        clip_low, clip_high  rho A becomes min(rho A, clip(rho, 1 - low, 1 + high) A)
        clip_dual = c        and that, where A < 0, max(that, c A)
        correction           and that is multiplied by c_i of `corrections`, without gradient
        entropy_weight = h   J gains h sum_i w_i H_i, H_i the entropy that token i was drawn with
        normalisation        "trajectory": w_i = 1 / (trajectories * steps of this one * n)
                             "token":      w_i = 1 / (action tokens of the batch)
                             "constant":   w_i = 1 / (trajectories * constant length)
        beta = 0             no KL term, `ref_log_probs` may be None

    Args:
      log_probs: log pi of every target under the parameters being trained.
      old_log_probs: the same under the parameters that sampled.
      ref_log_probs: the same under the reference; None when beta is 0.
      advantages: of the target: A_k of its trajectory, or what `credit` makes of it.
      weights: w_i, made by packing; they add up to 1 over the batch, unless the normalisation
        is "constant".
      step_ids: which targets share a step, unique within a row.
      mask: false where a target is padding.
      config: options.
      sampler_log_probs: as recorded while sampling, where `old_log_probs` were computed anew;
        None where those are the recorded ones.
      entropy: of the policy at every target, with a gradient; None without a weight.

    Returns:
      (loss, metrics). Metrics of microbatches add up, except those that end in "_max",
      of which the largest counts; means are taken with the weights. Where those do not add up
      to 1 their sum is among them as "weight_sum", for `means_of` to divide by.

    Raises:
      ValueError: something is None that an option needs.
    """
    # Padding may hold anything; zeroed here, it meets no exponential further on.
    zeroed = lambda values: jnp.where(mask, values, 0.0)  # noqa: E731
    log_probs, old_log_probs, advantages, weights = (
        zeroed(values) for values in (log_probs, old_log_probs, advantages, weights)
    )
    log_ratio = log_probs - old_log_probs
    recorded = old_log_probs if sampler_log_probs is None else zeroed(sampler_log_probs)
    gap = jnp.max(jnp.abs(log_probs - recorded))
    if config.ratio == "sequence":
        log_ratio = step_means(log_ratio, mask, step_ids)
    ratio = jnp.exp(_clamped(log_ratio, config.log_ratio_clamp))

    objective = ratio * advantages
    clipped = jnp.zeros_like(ratio)
    if config.clip_low is not None or config.clip_high is not None:
        low = 0.0 if config.clip_low is None else 1.0 - config.clip_low
        high = jnp.inf if config.clip_high is None else 1.0 + config.clip_high
        bounded = jnp.clip(ratio, low, high) * advantages
        clipped = (bounded < objective).astype(ratio.dtype)
        objective = jnp.minimum(objective, bounded)
    metrics = {}
    if config.clip_dual is not None:
        floor = config.clip_dual * advantages
        raised = (advantages < 0) & (floor > objective)
        objective = jnp.where(raised, floor, objective)
        metrics["clip_dual_fraction"] = jnp.sum(weights * raised)
    if sampler_log_probs is not None:
        metrics["sampling_kl"] = jnp.sum(weights * kl_penalty(recorded, old_log_probs, "k3"))
    if config.correction is not None:
        if sampler_log_probs is None:
            raise ValueError(
                f"grpo_loss got no log-probabilities of the sampler although grpo.correction is "
                f"{config.correction!r}; score the batch with the old policy first."
            )
        factor, told = corrections(old_log_probs, recorded, weights, step_ids, mask, config)
        objective, metrics = factor * objective, metrics | told
    policy_loss = -jnp.sum(weights * objective)

    loss, kl = policy_loss, jnp.zeros(())
    if config.beta > 0.0:
        if ref_log_probs is None:
            raise ValueError(
                f"grpo_loss got no reference log-probabilities although grpo.beta is "
                f"{config.beta}; score the batch with the reference first."
            )
        penalty = kl_penalty(
            log_probs, zeroed(ref_log_probs), config.kl_estimator, config.log_ratio_clamp
        )
        kl = jnp.sum(weights * penalty)
        loss = policy_loss + config.beta * kl
    if config.entropy_weight > 0.0:
        if entropy is None:
            raise ValueError(
                f"grpo_loss got no entropies although grpo.entropy_weight is "
                f"{config.entropy_weight}; give those of the policy."
            )
        loss = loss - config.entropy_weight * jnp.sum(weights * zeroed(entropy))

    metrics |= {
        "loss": loss,
        "policy_loss": policy_loss,
        "kl": kl,
        "ratio_mean": jnp.sum(weights * ratio),
        "ratio_max": jnp.max(zeroed(ratio)),
        "clip_fraction": jnp.sum(weights * clipped),
        "advantage_mean": jnp.sum(weights * advantages),
        "advantage_abs": jnp.sum(weights * jnp.abs(advantages)),
        "sampling_gap_max": gap,
    }
    if config.normalisation == "constant":
        metrics["weight_sum"] = jnp.sum(weights)
    return loss, metrics


def corrections(
    old_log_probs: Float[Array, "row target"],
    sampler_log_probs: Float[Array, "row target"],
    weights: Float[Array, "row target"],
    step_ids: Int[Array, "row target"],
    mask: Bool[Array, "row target"],
    config: GRPOConfig,
) -> tuple[Float[Array, "row target"], dict[str, Float[Array, ""]]]:
    """Importance weights between what sampled and what is trained, truncated or masked.

        c_i = pi_old(token_i) / pi_sampler(token_i)      level "token"
        c_i = the product of these over the step         level "sequence"
        "truncate": min(c_i, cap)        "mask": c_i where c_i <= cap, else 0

    pi_old and pi_sampler have the same parameters; rounding and other programs set them apart.
    Padding must be 0 in all arrays.

    Returns:
      (factors without gradient, metrics): the mean of the factors, the largest c, and the share
      of tokens whose c passed the cap.
    """
    log_weight = jax.lax.stop_gradient(old_log_probs - sampler_log_probs)
    if config.correction_level == "sequence":
        log_weight = step_sums(log_weight, mask, step_ids)
    weight = jnp.exp(log_weight)
    above = mask & (weight > config.correction_cap)
    factor = jnp.where(
        above, config.correction_cap if config.correction == "truncate" else 0.0, weight
    )
    return factor, {
        "correction_mean": jnp.sum(weights * factor),
        "correction_max": jnp.max(jnp.where(mask, weight, 0.0)),
        "correction_share": jnp.sum(weights * above),
    }


def means_of(metrics: dict[str, Float[Array, ""]]) -> dict[str, Float[Array, ""]]:
    """Metrics of a whole batch, with means that are means though weights do not add up to 1."""
    if "weight_sum" not in metrics:
        return metrics
    total = jnp.maximum(metrics["weight_sum"], jnp.finfo(jnp.float32).tiny)
    return {
        name: value if name in ("loss", "policy_loss") or name.endswith("_max") else value / total
        for name, value in metrics.items()
        if name != "weight_sum"
    }


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
