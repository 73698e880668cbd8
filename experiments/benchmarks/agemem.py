"""AgeMem episodes: what reuse and sharing save in rollouts and in updates.

Of the quickstart, and, with a file of HotpotQA's rows, of SmolLM2-135M on its questions.
"""

import dataclasses
import pathlib
import types
from collections.abc import Callable, Mapping

import jax
import numpy as np

from agemem_jax.configs import quickstart, smollm2_hotpotqa
from agemem_jax.rollout.player import Player, group_rollouts
from agemem_jax.rollout.trajectory import Segment, Trajectory
from agemem_jax.training import components, packing, train_state, update
from agemem_jax.training.configuration import run_config
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.policy import restore_weights
from experiments.benchmarks.options import Options
from experiments.benchmarks.timing import Case, Timing, interleaved, measure


def run_episodes(options: Options) -> list[Case]:
    """Rollouts: tokens per second, tokens prefilled against tokens of prompts, idle slots."""
    player, play = _player(run_config.build(quickstart.get_config()))
    seconds = measure(lambda: play() and None, options.repeats)
    trajectories, counted = _count(player, play)
    tokens = counted["sampled_tokens"]
    busy = counted["busy_slot_steps"]
    idle = 1 - busy / (counted["decode_steps"] * player.engine.config.slots)
    wasted = 1 - busy / counted["slot_steps"]
    cases = [
        Case(
            f"rollout of {len(trajectories)} quickstart episodes",
            seconds.per(tokens, "tokens/s"),
            note=f"{tokens} tokens sampled",
        ),
        Case(
            "slots idle during rollouts of the quickstart", Timing((100 * idle,), "%"),
            {"at most": Timing((15.0,), "%")}, wanted={"at most": 1.0},
            note=f"{100 * wasted:.1f} % of the slot steps that were computed",
        ),
        _prefilled("quickstart", counted),
    ]  # fmt: skip
    if options.hotpotqa is not None:
        config = _hotpotqa(options.hotpotqa, options.folder)
        trajectories, counted = _count(*_player(config))
        cases.append(
            _prefilled(f"{len(trajectories)} of SmolLM2-135M on HotpotQA, not warmed up", counted)
        )
    return cases


def _count(player: Player, play: Callable[[], list[Trajectory]]) -> tuple[list, dict[str, int]]:
    """The trajectories of one iteration, and what the engine counted meanwhile."""
    before = dataclasses.replace(player.engine.stats)
    trajectories = play()
    after = player.engine.stats
    names = [field.name for field in dataclasses.fields(after)]
    return trajectories, {name: getattr(after, name) - getattr(before, name) for name in names}


def _prefilled(episodes: str, counted: Mapping[str, int]) -> Case:
    whole = "every prompt from its start"
    return Case(
        f"tokens prefilled, episodes: {episodes}",
        Timing((counted["prefilled_tokens"],), "tokens"),
        {whole: Timing((counted["prompt_tokens"],), "tokens")}, wanted={whole: 5.0},
        note=f"{counted['requests']} generations; {counted['copied_tokens']} tokens taken over "
        "from another slot",
    )  # fmt: skip


def _hotpotqa(rows: pathlib.Path, folder: pathlib.Path) -> RunConfig:
    """The configuration that trains on HotpotQA, with the rows of one file."""
    config = smollm2_hotpotqa.get_config()
    options = config.tasks.options
    options.manual_dir, options.data_dir = str(rows.parent), str(folder / "hotpotqa")
    options.train_file = options.validation_file = rows.name
    return run_config.build(config)


def run_update(options: Options) -> list[Case]:
    """Updates: forests of segments against every step in its own context."""
    config = run_config.build(quickstart.get_config())
    player, play = _player(config)
    trajectories = play()
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


def _player(config: RunConfig) -> tuple[Player, Callable[[], list[Trajectory]]]:
    """A player with the policy a run starts with, and a function that plays one iteration."""
    backbone = components.build_backbone(config)
    player = components.build_player(config, backbone)
    source = config.tasks.load("train")
    tasks = [source[index] for index in range(config.curriculum.tasks_per_iteration)]
    rollouts = group_rollouts(tasks, config.grpo.group_size, jax.random.key(0))
    weights = restore_weights(config, backbone, "absent", trained=False)

    def play() -> list[Trajectory]:
        return player.play(weights, rollouts, player.rules(config.episode), config.temperature)

    return player, play
