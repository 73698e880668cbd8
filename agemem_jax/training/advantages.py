"""Group-relative advantages: how much better a rollout did than its siblings.

The advantage belongs to the trajectory and is the same at every one of its steps
(section 3.4). Runs on the host, before packing; axis order is [group, rollout].
"""

import numpy as np
from jaxtyping import Bool, Float


def zero_variance(rewards: Float[np.ndarray, "group rollout"]) -> Bool[np.ndarray, " group"]:
    """True for groups whose rollouts all got the same reward: they teach nothing."""
    return np.max(rewards, axis=1) == np.min(rewards, axis=1)


def group_advantages(
    rewards: Float[np.ndarray, "group rollout"],
    eps: float = 1e-6,
    *,
    normalise_std: bool = True,
    baseline: str = "mean",
    counted: Bool[np.ndarray, "group rollout"] | None = None,
) -> Float[np.ndarray, "group rollout"]:
    """Advantages A_k of the K rollouts of every task (section 3.4).

        A_k = (r_k - mean(r)) / (std(r) + eps)        std with denominator K - 1

    Args:
      rewards: terminal rewards R(tau_k); one row per task, one column per rollout.
      eps: keeps the quotient bounded.
      normalise_std: divide by the standard deviation; without it A_k = r_k - mean(r),
        which does not favour tasks whose rewards vary little.
      baseline: "mean" of the group, or "leave_one_out", the mean of the K - 1 others, which
        makes A_k = r_k - mean(others) = (r_k - mean(r)) K / (K - 1) (RLOO, arXiv 2402.14740);
        with `normalise_std` that is divided by the same deviation.
      counted: false for rollouts that failed through no fault of the policy. They are left
        out of their group's mean and deviation.

    Returns:
      Advantages, float32; exactly zero in groups of zero variance, for rollouts that are not
      counted, and in groups that have fewer than two others.

    Raises:
      ValueError: fewer than two rollouts per group, or a reward that is not finite.
    """
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"group_advantages got rewards of shape {rewards.shape}; it needs "
            "[group, rollout] with at least two rollouts per group."
        )
    if counted is not None and not np.all(counted):
        advantages = np.zeros(rewards.shape, np.float32)
        for group, (own, use) in enumerate(zip(rewards, np.asarray(counted), strict=True)):
            if np.sum(use) >= 2:
                (advantages[group, use],) = group_advantages(
                    own[use][None], eps, normalise_std=normalise_std, baseline=baseline
                )
        return advantages
    if not np.isfinite(rewards).all():
        group, rollout = np.argwhere(~np.isfinite(rewards))[0]
        raise ValueError(
            f"The reward of rollout {rollout} in group {group} is {rewards[group, rollout]}; "
            "rewards must be finite numbers."
        )
    advantages = rewards - rewards.mean(axis=1, keepdims=True)
    if baseline == "leave_one_out":
        advantages *= rewards.shape[1] / (rewards.shape[1] - 1)
    if normalise_std:
        advantages /= rewards.std(axis=1, ddof=1, keepdims=True) + eps
    # The mean of equal numbers may differ from them by a rounding error, which the
    # division would blow up to about rounding / eps.
    advantages[zero_variance(rewards)] = 0.0
    return advantages.astype(np.float32)
