"""A soft penalty on responses that come near their limit (DAPO, arXiv 2503.14476, section 3.4).

It is no part of the paper's reward: a run adds it as a component of its own. A response that
its limit cuts off is bad for a reason that the policy cannot tell from its score; this says it
in time.
"""

import dataclasses

import numpy as np

from agemem_jax.rewards.judges import Judge
from agemem_jax.rewards.registry import COMPONENTS, RewardConfig
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Overlong:
    """The mean over a trajectory's responses of a value in [-1, 0].

        0                            for n tokens up to limit - buffer
        ((limit - buffer) - n) / buffer   between those and the limit, where it is -1
        -1                           beyond

    Every response counts, those of summaries with their own, lower limit too. A trajectory
    without a response has 0.

    Attributes:
      buffer: tokens below the limit from which on a response costs.
      limit: in tokens; None takes `episode.max_response_tokens`.
    """

    buffer: int = 512
    limit: int | None = None

    def __post_init__(self):
        if self.buffer < 1:
            raise ValueError(f"buffer is {self.buffer}; it must be at least 1 token.")
        if self.limit is not None and self.limit <= self.buffer:
            raise ValueError(
                f"buffer is {self.buffer}; it must be below the limit of a response, which is "
                f"{self.limit} (episode.max_response_tokens)."
            )

    def __call__(self, trajectory: Trajectory, judge: Judge) -> float:
        del judge
        if self.limit is None:
            raise ValueError("overlong needs a limit; without a run's configuration, give one.")
        lengths = _lengths(trajectory)
        if not lengths:
            return 0.0
        over = np.array(lengths) - (self.limit - self.buffer)
        return -float(np.mean(np.clip(over / self.buffer, 0.0, 1.0)))


def _lengths(trajectory: Trajectory) -> list[int]:
    """Tokens of every response, in order."""
    lengths = []
    for segment in trajectory.segments:
        _, counts = np.unique(segment.step_index[segment.action_mask], return_counts=True)
        lengths += counts.tolist()
    return lengths


def with_limit(rewards: RewardConfig, max_response_tokens: int) -> RewardConfig:
    """`rewards` with the episode's limit where this component has none."""
    components = dict(rewards.components)
    for name, component in components.items():
        is_one = COMPONENTS.find(component.function) is Overlong
        if is_one and component.options["limit"] is None:
            options = {**component.options, "limit": max_response_tokens}
            components[name] = dataclasses.replace(component, options=options)
    return dataclasses.replace(rewards, components=components)
