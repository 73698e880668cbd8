"""P_penalty: too many rounds, too many tokens (paper section 3.5, appendix A.2)."""

import dataclasses

from agemem_jax.protocol.events import OverflowEvent, RoundLimitEvent
from agemem_jax.rewards.judges import Judge
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Penalty:
    """Sum of what applies, each at most once.

    An answer in the last allowed round leaves no `RoundLimitEvent`, and costs nothing.

    Attributes:
      round_limit: where the rounds of Stage 3, or the actions in its environment, ran out.
      token_budget: where the context passed T_max.
    """

    round_limit: float = -1.0
    token_budget: float = -0.5

    def __post_init__(self):
        for name in ("round_limit", "token_budget"):
            if getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; a penalty must be 0 or less.")

    def __call__(self, trajectory: Trajectory, judge: Judge) -> float:
        del judge
        value = 0.0
        if any(isinstance(event, RoundLimitEvent) for event in trajectory.events):
            value += self.round_limit
        if any(isinstance(event, OverflowEvent) for event in trajectory.events):
            value += self.token_budget
        return value
