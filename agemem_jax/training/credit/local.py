"""Local rerollouts, after LoGo-GRPO (arXiv 2605.21768): a memory is judged by several episodes.

Rollouts that stored different things in Stage 1 are in different situations behind it. Some of
their memories are therefore played on several times, and these continuations compared among
themselves, beside the comparison of whole rollouts.
"""

import dataclasses

import numpy as np

from agemem_jax.rewards.judges import Judge
from agemem_jax.training.credit.broadcast import at_all_steps
from agemem_jax.training.credit.rule import Branches, Credit, Episode, Group
from agemem_jax.training.credit.steps import steps_of_stage_1


@dataclasses.dataclass(frozen=True)
class LocalRerollouts:
    """Plays on from the memory of some rollouts, at the reset behind Stage 1.

    With R_k the reward of rollout k and R_{k,c} those of its branches, c = 1 … C:

        Stage 1      A_{k,t} = compare({V_j})_k,    V_k = mean(R_k, R_{k,1}, …, R_{k,C})
        behind it    A_{k,t} = compare({R_j})_k + weight * compare({R_k, R_{k,1}, …, R_{k,C}})_k
        a branch     A_{k,c,t} = weight * compare({R_k, R_{k,1}, …, R_{k,C}})_c

    A rollout without branches has V_k = R_k, and no local term.

    Differs from the paper, whose sessions follow each other and where what is rolled out again
    is a session's memory operations: here they are told of in one Stage 1, whose end is the one
    place where an episode branches, so that what is rolled out again is the use of a memory.

    Attributes:
      memories: rollouts of a group whose memory is played on, the first ones. One that has
        failed or never left Stage 1 has no branches, and none takes its place.
      continuations: C, branches of each.
      weight: of the local term.
    """

    memories: int = 2
    continuations: int = 2
    weight: float = 1.0

    def __post_init__(self):
        for name in ("memories", "continuations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.weight < 0:
            raise ValueError(f"weight is {self.weight}; it must be 0 or more.")

    def score_episode(self, episode: Episode, judge: Judge) -> Branches | None:
        """Whether the memory of this episode is played on."""
        steps = steps_of_stage_1(episode.trajectory)
        if episode.place >= self.memories or not 0 < steps < episode.num_steps:
            return None
        return Branches(steps, self.continuations)

    def score_group(self, group: Group) -> list[Credit]:
        """The advantages above, of the episodes and of all branches."""
        group.counts.update(branches=0, branch_steps=0)  # told where there is none, too
        rewards = [each.reward.total for each in group.episodes]
        values = [
            float(np.mean([reward, *(branch.reward.total for branch in each.branches)]))
            for reward, each in zip(rewards, group.episodes, strict=True)
        ]
        advantages = at_all_steps(group.episodes, group.compare(rewards))
        of_branches = []
        for episode, value, steps in zip(
            group.episodes, group.compare(values), advantages, strict=True
        ):
            stage_1 = steps_of_stage_1(episode.trajectory)
            steps[:stage_1] = value
            if episode.branches:
                local = self.weight * group.compare(
                    [episode.reward.total, *(branch.reward.total for branch in episode.branches)]
                )
                steps[stage_1:] += local[0]
                of_branches += at_all_steps(episode.branches, local[1:])
        return [Credit(steps) for steps in advantages + of_branches]
