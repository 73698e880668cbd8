"""GiGPO (arXiv 2505.10978): beside whole episodes, actions in the same state are compared.

A state here is the prompt and the memory behind it. All rollouts of a task are in the same one at
their first step; at the reset behind Stage 1, where the prompts are alike again, those are that
have stored the same; in environments whoever has seen and done the same so far.
"""

import dataclasses

import numpy as np

from agemem_jax.rewards.judges import Judge
from agemem_jax.rollout.replay import recorded_steps
from agemem_jax.training.credit.broadcast import broadcast
from agemem_jax.training.credit.rule import Credit, Episode, Group
from agemem_jax.training.credit.steps import memories


@dataclasses.dataclass(frozen=True)
class GiGPO:
    """Adds to A_k, at every step t, how much better the action was than others in its state s.

        A_{k,t} = A_k + weight * compare({ G_{j,u} : s_{j,u} = s_{k,t} })
        G_{k,t} = discount^(T_k - 1 - t) R(τ_k)

    `compare` is that of A_k: the mean of the state's returns is taken off and, with
    `grpo.normalise_std`, their deviation divided by. A state that was met once adds nothing.
    An episode that comes to a state twice is in its comparison twice, as in the paper.

    Differs from the paper: states of the paper are what an environment shows; the return is
    that of the terminal reward alone, since no event carries what a single step earned.

    Attributes:
      weight: of the second term, the paper's ω.
      discount: of the reward by step, the paper's γ.
    """

    weight: float = 1.0
    discount: float = 0.95

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError(f"weight is {self.weight}; it must be 0 or more.")
        if not 0.0 < self.discount <= 1.0:
            raise ValueError(f"discount is {self.discount}; it must be in (0, 1].")

    def score_episode(self, episode: Episode, judge: Judge) -> tuple[list, np.ndarray]:
        """The state and the return of each step."""
        prompts = [step.prompt for step in recorded_steps(episode.trajectory)]
        states = list(zip(prompts, memories(episode.trajectory), strict=True))
        left = np.arange(len(states))[::-1]
        return states, episode.reward.total * self.discount**left

    def score_group(self, group: Group) -> list[Credit]:
        """A_{k,t}; counts the states that several steps were in, and these steps."""
        advantages = broadcast(group)
        group.counts.update(anchors=0, anchored_steps=0)  # told where there is none, too
        met: dict[tuple, list[tuple[int, int]]] = {}  # by state: rollouts and their steps
        for rollout, episode in enumerate(group.episodes):
            for step, state in enumerate(episode.score[0]):
                met.setdefault(state, []).append((rollout, step))
        for steps in met.values():
            if len(steps) < 2:
                continue
            returns = [group.episodes[rollout].score[1][step] for rollout, step in steps]
            for (rollout, step), value in zip(steps, group.compare(returns), strict=True):
                advantages[rollout][step] += self.weight * value
            group.counts.update(anchors=1, anchored_steps=len(steps))
        return [Credit(steps) for steps in advantages]
