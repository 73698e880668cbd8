"""The paper's rule for actions alone: summaries are written by the policy, and not trained.

What other implementations do that have summaries written by another model (their tokens have no
gradient); to compare with `broadcast`, where they are steps like any other.
"""

from agemem_jax.rewards.judges import Judge
from agemem_jax.training.credit.broadcast import broadcast
from agemem_jax.training.credit.rule import Credit, Episode, Group


class WithoutSummaries:
    """A_k at every step that is an action, 0 at those that wrote a summary.

    A step without advantage still counts in |E|, and the KL term still holds it.
    """

    def score_episode(self, episode: Episode, judge: Judge) -> list[int]:
        """The steps that wrote a summary."""
        transcript = episode.trajectory.transcript
        return [entry.step for entry in transcript if entry.role == "summary"]

    def score_group(self, group: Group) -> list[Credit]:
        """The advantages of `broadcast`, but none of summaries; counts what is left out."""
        credits = []
        for episode, steps in zip(group.episodes, broadcast(group), strict=True):
            steps[episode.score] = 0.0
            group.counts["untrained_summaries"] += len(episode.score)
            credits.append(Credit(steps))
        return credits
