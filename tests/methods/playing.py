"""Memory systems played by hand-written replies; tasks and helpers of `rollout.scripted`."""

import jax

from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from tests.rollout.scripted import NOTED, TASK, Replies, answer
from tests.rollout.scripted import tools as calls

__all__ = ["CONFIG", "NOTED", "TASK", "Player", "answer", "calls", "play", "trained_steps"]

CONFIG = EpisodeConfig(max_context_tokens=600, max_response_tokens=90, prompt_style="compact")


class Player:
    """What a method needs of a player where nothing is sampled."""

    def __init__(self, chat):
        self.chat = chat

    def rules(self, config):
        return EpisodeRules(config, self.chat)


def play(method, chat, store, *replies, task=TASK, config=CONFIG):
    backend = Replies(chat, *replies)
    rules = method.rules(Player(chat), config)
    (trajectory,) = run_episodes([Rollout(task, jax.random.key(0))], rules, store, backend)
    return trajectory, backend.requests


def trained_steps(trajectory):
    """The steps whose tokens are targets of training."""
    return {int(i) for s in trajectory.segments for i in s.step_index[s.action_mask]}
