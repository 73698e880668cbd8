"""Episodes of the quickstart: what reuse and sharing save in rollouts and in updates."""

import dataclasses
import types

import jax
import numpy as np

from agemem_jax.rollout.player import group_rollouts
from agemem_jax.rollout.trajectory import Segment, Trajectory
from agemem_jax.training import components, packing, run_config, train_state, update
from agemem_jax.training.policy import restore_weights
from experiments.benchmarks.options import Options
from experiments.benchmarks.timing import Case, Timing, interleaved, measure
from experiments.configs import quickstart


def run_episodes(options: Options) -> list[Case]:
    """Rollouts: tokens per second, tokens prefilled against tokens of prompts, idle slots."""
    player, play = _quickstart()
    seconds = measure(lambda: play() and None, options.repeats)
    before = dataclasses.replace(player.engine.stats)
    trajectories = play()
    after = player.engine.stats
    counted = {
        field.name: getattr(after, field.name) - getattr(before, field.name)
        for field in dataclasses.fields(after)
    }
    tokens = counted["sampled_tokens"]
    busy = counted["busy_slot_steps"]
    idle = 1 - busy / (counted["decode_steps"] * player.engine.config.slots)
    wasted = 1 - busy / counted["slot_steps"]
    return [
        Case(
            f"rollout of {len(trajectories)} quickstart episodes",
            seconds.per(tokens, "tokens/s"),
            note=f"{tokens} tokens sampled; {100 * idle:.0f} % of slot steps idle, "
            f"{100 * wasted:.0f} % of those that were computed",
        ),
        Case(
            "tokens prefilled, quickstart episodes",
            Timing((counted["prefilled_tokens"],), "tokens"),
            {"every prompt from its start": Timing((counted["prompt_tokens"],), "tokens")},
            wanted={"every prompt from its start": 5.0},
            note=f"{counted['copied_tokens']} tokens taken over from another slot",
        ),
    ]


def run_update(options: Options) -> list[Case]:
    """Updates: forests of segments against every step in its own context."""
    player, play = _quickstart()
    trajectories = play()
    config = run_config.build(quickstart.get_config())
    backbone = components.build_backbone(config)
    advantages = np.random.default_rng(0).normal(size=len(trajectories))
    prefix = player.rules(config.episode).shared_prefix
    together = packing.pack(trajectories, advantages, config.packing, prefix=prefix)
    longest = max(len(s.token_ids) for t in trajectories for s in t.segments)
    plain = dataclasses.replace(
        config.packing, row_lengths=(longest,), max_microbatches=256, share=False
    )
    apart = packing.pack([each_step_alone(t) for t in trajectories], advantages, plain)
    grpo = dataclasses.replace(config.grpo, beta=0.0)
    step = update.make_update(backbone.config, grpo, config.optimizer)

    def run(batch):
        state = train_state.create(
            backbone.config, backbone.params, config.optimizer, keep_reference=False,
            key=jax.random.key(0),
        )  # fmt: skip
        return lambda: step(jax.tree.map(jax.numpy.copy, state), batch)[1]

    seconds = interleaved({"forest": run(together), "apart": run(apart)}, options.repeats)
    tokens = [int(np.sum(batch.visible_to > 0)) for batch in (together, apart)]
    tokens[0] += int(together.num_microbatches) * len(prefix)
    name = f"update on {len(trajectories)} quickstart trajectories"
    return [
        Case(
            f"{name}: tokens that pass through the model",
            Timing((tokens[0],), "tokens"),
            {"each step in its own context": Timing((tokens[1],), "tokens")},
            wanted={"each step in its own context": 6.0},
        ),
        Case(
            f"{name}: time", seconds["forest"],
            {"each step in its own context": seconds["apart"]},
            wanted={"each step in its own context": 4.0},
        ),
    ]  # fmt: skip


def each_step_alone(trajectory: Trajectory) -> types.SimpleNamespace:
    """The same steps as segments of their own: context, then one action."""
    segments = []
    for segment in trajectory.segments:
        for step in np.unique(segment.step_index[segment.action_mask]):
            places = np.flatnonzero(segment.step_index == step)
            end = places[-1] + 1
            mask = np.zeros(end, bool)
            mask[places] = True
            segments.append(
                Segment(
                    token_ids=segment.token_ids[:end], action_mask=mask,
                    step_index=np.where(mask, step, -1), log_probs=segment.log_probs[:end] * mask,
                )
            )  # fmt: skip
    return types.SimpleNamespace(segments=segments)


def _quickstart():
    """A player with the shipped policy, and a function that plays one iteration's episodes."""
    config = run_config.build(quickstart.get_config())
    backbone = components.build_backbone(config)
    player = components.build_player(config, backbone)
    source = components.build_source(config, "train")
    tasks = [source[index] for index in range(config.curriculum.tasks_per_iteration)]
    rollouts = group_rollouts(tasks, config.grpo.group_size, jax.random.key(0))
    weights = restore_weights(config, backbone, "absent", trained=False)

    def play() -> list[Trajectory]:
        return player.play(weights, rollouts, config.episode, config.temperature)

    return player, play
