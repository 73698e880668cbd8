"""The paper's rule: what an episode was better than its siblings counts for all it did."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from agemem_jax.rewards.judges import Judge
from agemem_jax.training.credit.rule import Credit, Episode, Group


class Broadcast:
    """A_k at every step of the three stages (section 3.4)."""

    def score_episode(self, episode: Episode, judge: Judge) -> None:
        """Nothing: the reward is all that counts."""

    def score_group(self, group: Group) -> list[Credit]:
        """A_k of the K rewards R(τ_k)."""
        return [Credit(steps) for steps in broadcast(group)]


def broadcast(group: Group) -> list[Float[np.ndarray, " step"]]:
    """The advantages of the group's episodes, the same at each step; other rules add to them."""
    advantages = group.compare([episode.reward.total for episode in group.episodes])
    return at_all_steps(group.episodes, advantages)


def at_all_steps(
    episodes: Sequence[Episode], values: Sequence[float]
) -> list[Float[np.ndarray, " step"]]:
    """A number for each episode, at each of its steps."""
    pairs = zip(episodes, values, strict=True)
    return [np.full(episode.num_steps, value, np.float32) for episode, value in pairs]
