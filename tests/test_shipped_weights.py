"""The warmed-up weights inside the package speak the protocol and copy what they read."""

import jax
import pytest

from agemem_jax.configs import quickstart
from agemem_jax.models.decoder import Weights
from agemem_jax.protocol.events import FormatEvent, ToolEvent
from agemem_jax.rollout.driver import Rollout
from agemem_jax.training import components
from agemem_jax.training.configuration import run_config


@pytest.fixture(scope="module")
def greedy_episodes():
    config = run_config.build(quickstart.get_config())
    backbone = components.build_backbone(config)
    player = components.build_player(config, backbone)
    source = config.tasks.load("validation")
    rollouts = [Rollout(source[i], jax.random.key(i)) for i in range(32)]
    return player.play(
        Weights(backbone.params), rollouts, player.rules(config.episode), temperature=0.0
    )


def test_they_keep_to_the_response_format(greedy_episodes):
    steps = sum(episode.num_steps for episode in greedy_episodes)
    events = [event for episode in greedy_episodes for event in episode.events]
    broken = sum(isinstance(event, FormatEvent) for event in events)
    assert broken <= 0.05 * steps
    assert sum(episode.outcome is not None for episode in greedy_episodes) >= 29


def test_they_copy_facts_to_the_letter(greedy_episodes):
    added = exact = 0
    for episode in greedy_episodes:
        said = (
            *episode.task.supporting_facts,
            *episode.task.stale_facts,
            *episode.task.messages,
        )
        for event in episode.events:
            if isinstance(event, ToolEvent) and event.name == "Add_memory" and event.stage == 1:
                added += 1
                exact += event.content in said
    assert added >= 20, "nearly nothing was stored"
    assert exact >= 0.8 * added
