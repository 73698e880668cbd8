"""The options of the policy update: what is in the objective, and on which data.

The defaults are the paper's (section 3.4). `docs/training_options.md` has the formula and the
source of every option.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from agemem_jax.training.credit import registry
from agemem_jax.training.credit.rule import CreditRule

RATIOS = ("token", "sequence")
NORMALISATIONS = ("step", "trajectory", "token", "constant")
KL_ESTIMATORS = ("k1", "k2", "k3")
BASELINES = ("mean", "leave_one_out")
CORRECTIONS = ("truncate", "mask")
LEVELS = ("token", "sequence")
_CLIP = 0.2  # PPO's (arXiv 1707.06347)


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """Options of the policy update (section 3.4).

    A "sequence" is one step: a step's response is what was sampled in one piece.

    Attributes:
      group_size: K, rollouts per task.
      beta: weight of the KL penalty; 0 needs no reference model.
      clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high], PPO's
        way; None leaves that side open. Unequal values give "clip-higher". Where neither is
        given and a rollout batch gets several updates (epochs times minibatches), both are
        0.2, since the policy of the second one did not sample it; a `clip_low` of 1 alone
        says that nothing is to be clipped.
      clip_dual: c above 1: with a negative advantage the objective is at least c A (dual
        clip, arXiv 1912.09729); None leaves it open.
      log_ratio_clamp: log ratios, and the differences that KL estimators take, are clamped to
        [-log_ratio_clamp, log_ratio_clamp]; None leaves them as they are.
      ratio: "token", or "sequence": one length-normalised ratio per step.
      normalisation: what counts equally: every "step" (the paper), every
        "trajectory", or every "token"; "constant" divides by trajectories times
        `constant_length`, whatever was sampled (Dr. GRPO, arXiv 2503.20783).
      constant_length: tokens of a trajectory for "constant"; None takes
        `episode.max_response_tokens`.
      kl_estimator: "k1", "k2" or "k3".
      entropy_weight: of the mean entropy over the vocabulary, which the objective gains.
      baseline: "mean" of the group, or "leave_one_out": the mean of the others (RLOO,
        arXiv 2402.14740, with `normalise_std=False`).
      advantage_eps: epsilon of the advantage's denominator.
      normalise_std: divide advantages by the group's standard deviation.
      drop_zero_variance: leave groups whose rewards are all equal out of the batch;
        otherwise their steps count in |E| and only the KL term moves them.
      max_resample_rounds: up to so many more batches of tasks are played until
        `curriculum.tasks_per_iteration` groups with variance are there, and only those are
        trained on (dynamic sampling of DAPO, arXiv 2503.14476); 0 plays one batch.
      rescore_old: the old policy's log-probabilities are computed by the update's model
        instead of taken as they were recorded while sampling. By default where the two differ
        by more than the order of sums (a dtype of 16 bits, rounded weights), and where
        `correction` needs it.
      correction: of the difference between the policy that sampled and the old policy as the
        update's model computes it: "truncate" multiplies the objective by min(c, cap), "mask"
        by c where c is at most the cap and by 0 elsewhere, with c = pi_old / pi_sampler
        (truncated importance sampling); None corrects nothing.
      correction_level: c of each "token", or the product over its step's ("sequence").
      correction_cap: see `correction`.
      renew_reference_every: after so many iterations of a phase the reference becomes the
        policy of that moment; 0 keeps it for the whole phase.
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
    clip_dual: float | None = None
    log_ratio_clamp: float | None = None
    ratio: str = "token"
    normalisation: str = "step"
    constant_length: int | None = None
    kl_estimator: str = "k3"
    entropy_weight: float = 0.0
    baseline: str = "mean"
    advantage_eps: float = 1e-6
    normalise_std: bool = True
    drop_zero_variance: bool = False
    max_resample_rounds: int = 0
    rescore_old: bool | None = None
    correction: str | None = None
    correction_level: str = "token"
    correction_cap: float = 2.0
    renew_reference_every: int = 0
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
        for name, allowed in (
            ("ratio", RATIOS),
            ("normalisation", NORMALISATIONS),
            ("kl_estimator", KL_ESTIMATORS),
            ("baseline", BASELINES),
            ("correction", (None, *CORRECTIONS)),
            ("correction_level", LEVELS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"grpo.{name} is {getattr(self, name)!r}; it must be one of "
                    f"{', '.join(str(each) for each in allowed)}."
                )
        for name in ("advantage_eps", "correction_cap"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"grpo.{name} is {getattr(self, name)}; it must be positive.")
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"grpo.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("entropy_weight", "max_resample_rounds", "renew_reference_every"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"grpo.{name} is {getattr(self, name)}; it must be 0 or more.")
        self._check_bounds()
        self._check_pairs()
        if self.several_updates and self.clip_low is None and self.clip_high is None:
            object.__setattr__(self, "clip_low", _CLIP)
            object.__setattr__(self, "clip_high", _CLIP)
        rule, options = registry.complete(self.credit, self.credit_options)
        object.__setattr__(self, "credit", rule)
        object.__setattr__(self, "credit_options", options)

    def _check_bounds(self) -> None:
        """Options that None switches off."""
        if self.clip_low is not None and not 0.0 < self.clip_low <= 1.0:
            raise ValueError(
                f"grpo.clip_low is {self.clip_low}; it must be in (0, 1], or None for no clipping."
            )
        if self.clip_high is not None and not 0.0 < self.clip_high < float("inf"):
            raise ValueError(
                f"grpo.clip_high is {self.clip_high}; it must be positive, or None for no clipping."
            )
        if self.clip_dual is not None and not 1.0 < self.clip_dual < float("inf"):
            raise ValueError(
                f"grpo.clip_dual is {self.clip_dual}; it must be above 1, or None for no clipping."
            )
        if self.log_ratio_clamp is not None and not 0.0 < self.log_ratio_clamp < float("inf"):
            raise ValueError(
                f"grpo.log_ratio_clamp is {self.log_ratio_clamp}; it must be positive, or None for "
                "no clamp."
            )
        if self.constant_length is not None and self.constant_length < 1:
            raise ValueError(
                f"grpo.constant_length is {self.constant_length}; it must be at least 1, or None "
                "for episode.max_response_tokens."
            )

    def _check_pairs(self) -> None:
        """Options that say nothing, or the contrary, beside another."""
        if self.constant_length is not None and self.normalisation != "constant":
            raise ValueError(
                f"grpo.constant_length is {self.constant_length}, but grpo.normalisation is "
                f"{self.normalisation!r}; only 'constant' divides by it."
            )
        if self.correction is not None and self.rescore_old is False:
            raise ValueError(
                f"grpo.correction is {self.correction!r}, but grpo.rescore_old is False; the "
                "correction needs the old policy's own log-probabilities, so leave that None."
            )
        if self.renew_reference_every and not self.beta:
            raise ValueError(
                f"grpo.renew_reference_every is {self.renew_reference_every}, but grpo.beta is 0; "
                "without a KL penalty there is no reference to renew."
            )

    @property
    def several_updates(self) -> bool:
        """Whether a rollout batch gets more than one."""
        return self.epochs * self.minibatches > 1

    def old_log_probs(self, rounded: bool, dropout: bool) -> str:
        """Where updates take the old policy's log-probabilities from.

        "recorded" while sampling; or computed anew, by a pass of their own before the first
        update ("scored"), or, where there is no second one, by that itself ("updated").

        Args:
          rounded: whether what samples differs from the update's model by more than the order
            of its sums.
          dropout: whether updates have any, which the old policy has not.
        """
        rescores = self.rescore_old
        if rescores is None:
            rescores = rounded or self.correction is not None
        if not rescores:
            return "recorded"
        return "scored" if self.several_updates or dropout else "updated"
