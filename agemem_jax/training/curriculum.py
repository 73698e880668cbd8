"""The phases of a run: warm-up, then what the curriculum's schedule asks (section 3.3)."""

import dataclasses

from agemem_jax.rewards.registry import RewardConfig
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.training.configuration.run_config import RunConfig

WARMUP = "warmup"


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of training; a checkpoint closes it.

    Attributes:
      name: unique in the run; the name of its closing checkpoint.
      iterations: optimiser steps of the warm-up, or GRPO iterations.
      episode: the rules that its episodes are played by.
      rewards: what its trajectories are rewarded for.
    """

    name: str
    iterations: int
    episode: EpisodeConfig
    rewards: RewardConfig


def phases(config: RunConfig) -> tuple[Phase, ...]:
    """All phases in order, those without iterations left out.

    "phased": phase 1 trains the construction of long-term memory (Stages 1 and 3,
    task and memory rewards), phase 2 the control of the context (all stages, task and
    context rewards), phase 3 everything together. "joint" is phase 3 alone.
    """
    episode, rewards, schedule = config.episode, config.rewards, config.curriculum
    every = [Phase(WARMUP, config.warmup.steps, episode, rewards)]
    if schedule.schedule == "joint":
        every.append(Phase("joint", schedule.iterations[0], episode, rewards))
    else:
        without_distractors = dataclasses.replace(episode, stages=(1, 3))
        memory_only = rewards.reweighted(context=0.0)
        context_only = rewards.reweighted(memory=0.0)
        first, second, third = schedule.iterations
        every += [
            Phase("phase1", first, without_distractors, memory_only),
            Phase("phase2", second, episode, context_only),
            Phase("phase3", third, episode, rewards),
        ]
    return tuple(phase for phase in every if phase.iterations > 0)
