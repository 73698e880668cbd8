"""The training program: warm-up, then GRPO through the curriculum's phases.

Everything an iteration depends on is in the checkpoint (`TrainState`, the data
iterators, the position in the curriculum) or follows from the configuration, so a run
that was killed ends with the same parameters, bit for bit, as one that was not.
"""

import dataclasses
import json
import os
import pathlib
import time

import jax
import numpy as np
from absl import logging

from agemem_jax.models.decoder import Weights
from agemem_jax.protocol.events import FormatEvent, ToolEvent
from agemem_jax.rewards.memory_reward import memory_quality
from agemem_jax.rewards.total import Reward, compute_rewards
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.player import group_rollouts
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.pipeline import task_iterator
from agemem_jax.training import components, curriculum, packing, train_state, update
from agemem_jax.training.advantages import group_advantages, zero_variance
from agemem_jax.training.checkpoints import Checkpoints
from agemem_jax.training.demonstrations import ScriptBackend
from agemem_jax.training.metrics import MetricsWriter
from agemem_jax.training.run_config import RunConfig


@dataclasses.dataclass
class Position:
    """Where a run stands: phase number, iterations done in it, and in all."""

    phase: int = 0
    iteration: int = 0
    step: int = 0


class Trainer:
    """Runs one configuration in one work directory. Call `run`."""

    def __init__(self, config: RunConfig, workdir: str | os.PathLike):
        self.config = config
        self.workdir = pathlib.Path(workdir)
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.phases = curriculum.phases(config)
        self.backbone = components.build_backbone(config)
        self.player = components.build_player(config, self.backbone)
        self.judge = components.build_judge(config, self.workdir)
        self.iterator = task_iterator(
            components.build_source(config, "train"),
            config.curriculum.tasks_per_iteration,
            seed=config.seed,
        )
        self.checkpoints = Checkpoints(self.workdir / "checkpoints", keep=config.curriculum.keep)
        self.metrics = MetricsWriter(self.workdir)
        self.position = Position()
        self.state = self._fresh_state(self._phase_optimizer(0))
        self._started = time.monotonic()
        self._steps_at_start = 0

    def run(self) -> None:
        """Trains to the end, continuing from the newest intact checkpoint."""
        self._restore()
        while self.position.phase < len(self.phases):
            phase = self.phases[self.position.phase]
            logging.info("Phase %s: %d iterations", phase.name, phase.iterations)
            if phase.name == curriculum.WARMUP:
                self._run_warmup(phase)
            else:
                self._run_grpo(phase)
            self._close_phase(phase)
        self.metrics.close()
        self.checkpoints.close()

    # --- Phases ------------------------------------------------------------------

    def _run_warmup(self, phase: curriculum.Phase) -> None:
        """Imitates the scripted agent; the demonstrations follow from the seed."""
        config = self.config
        demonstrations = self._demonstrations(phase)
        logging.info("Warm-up on %d demonstrations", len(demonstrations))
        prefix = self.player.rules(phase.episode).shared_prefix
        vocabulary = range(self.backbone.config.vocab_size)
        sft_update = update.make_sft_update(self.backbone.config, config.warmup.optimizer)
        while self.position.iteration < phase.iterations:
            begun = time.monotonic()
            rng = np.random.default_rng([config.seed, self.position.iteration])
            if self.position.iteration < config.warmup.drill.steps:
                chosen = config.warmup.drill.exercises(self.position.iteration, rng, vocabulary)
            else:
                picks = rng.choice(len(demonstrations), size=config.warmup.batch)
                chosen = [demonstrations[i] for i in picks]
            batch = packing.pack(
                chosen, np.ones(len(chosen)), config.packing, normalisation="token", prefix=prefix
            )
            self.state, values = sft_update(self.state, batch)
            values = jax.device_get(values)
            self._finish_iteration(phase, values, {"seconds": time.monotonic() - begun})

    def _demonstrations(self, phase: curriculum.Phase) -> list[Trajectory]:
        config = self.config
        source = components.build_source(config, "train")
        rng = np.random.default_rng([config.seed, 1])
        count = config.warmup.episodes
        picks = rng.choice(len(source), size=count, replace=count > len(source))
        key = jax.random.key(config.seed)
        rollouts = [Rollout(source[int(i)], key) for i in picks]
        backend = ScriptBackend(
            self.player.chat, config.warmup.imperfection, config.seed, config.engine.slots
        )
        return run_episodes(rollouts, self.player.rules(phase.episode), self.player.store, backend)

    def _run_grpo(self, phase: curriculum.Phase) -> None:
        """Rolls out groups, rewards them, updates; one batch of tasks per iteration."""
        config = self.config
        grpo_update = update.make_update(
            self.backbone.config, config.grpo, config.optimizer, temperature=config.temperature
        )
        score = update.make_score(self.backbone.config, temperature=config.temperature)
        while self.position.iteration < phase.iterations:
            begun = time.monotonic()
            tasks = next(self.iterator)
            key = jax.random.fold_in(self.state.key, self.position.step)
            trajectories = self.player.play(
                self.weights,
                group_rollouts(tasks, config.grpo.group_size, key),
                phase.episode,
                config.temperature,
            )
            played = time.monotonic()
            rewards = compute_rewards(trajectories, phase.rewards, self.judge)
            totals = np.reshape([reward.total for reward in rewards], (len(tasks), -1))
            advantages = group_advantages(
                totals,
                config.grpo.advantage_eps,
                normalise_std=config.grpo.normalise_std,
            )
            prefix = self.player.rules(phase.episode).shared_prefix
            if config.grpo.drop_zero_variance:
                kept = np.repeat(~zero_variance(totals), config.grpo.group_size)
                trajectories = [t for t, keep in zip(trajectories, kept, strict=True) if keep]
                advantages = advantages[~zero_variance(totals)]
            values = self._improve(trajectories, advantages.reshape(-1), prefix, grpo_update, score)
            values = {**summarise(trajectories, rewards), **values}
            ended = time.monotonic()
            tokens = sum(int(s.action_mask.sum()) for t in trajectories for s in t.segments)
            timing = {
                "seconds": ended - begun,
                "rollout_seconds": played - begun,
                "update_seconds": ended - played,
                "sampled_tokens_per_second": tokens / (played - begun),
            }
            self._finish_iteration(phase, values, timing)

    def _improve(self, trajectories, advantages, prefix, grpo_update, score) -> dict[str, float]:
        """The optimiser steps on one rollout batch; returns the last step's metrics."""
        grpo = self.config.grpo
        rng = np.random.default_rng([self.config.seed, self.position.step])
        values = {}
        whole = None  # the same batch in every epoch, unless it is dealt out anew
        for _ in range(grpo.epochs):
            shuffle = rng if grpo.minibatches > 1 else None
            for share in packing.split(len(trajectories), grpo.minibatches, shuffle):
                batch = whole
                if batch is None:
                    batch = packing.pack(
                        [trajectories[i] for i in share], advantages[share], self.config.packing,
                        normalisation=grpo.normalisation, prefix=prefix,
                    )  # fmt: skip
                    if grpo.beta > 0:
                        reference = train_state.reference_weights(self.state)
                        batch = batch.replace(ref_log_probs=score(reference, batch))
                    whole = batch if grpo.minibatches == 1 else None
                self.state, values = grpo_update(self.state, batch)
        return jax.device_get(values)

    # --- State -------------------------------------------------------------------

    @property
    def weights(self) -> Weights:
        return train_state.weights(self.state)

    def _phase_optimizer(self, phase: int):
        warmup = self.phases[phase].name == curriculum.WARMUP
        return self.config.warmup.optimizer if warmup else self.config.optimizer

    def _fresh_state(self, optimizer, params=None) -> train_state.TrainState:
        return train_state.create(
            self.backbone.config,
            self.backbone.params if params is None else params,
            optimizer,
            keep_reference=self.config.grpo.beta > 0,
            key=jax.random.key(self.config.seed),
        )

    def _restore(self) -> None:
        restored = self.checkpoints.restore_latest(self.state, self.iterator)
        if restored is not None:
            self.state, position = restored
            self.position = Position(**position)
            logging.info("Continuing at step %d", self.position.step)
        self.metrics.forget_after(self.position.step)
        self._steps_at_start = self.position.step

    def _finish_iteration(self, phase: curriculum.Phase, values, timing) -> None:
        self.position.iteration += 1
        self.position.step += 1
        step = self.position.step
        values = {"phase": phase.name, "iteration": self.position.iteration, **values}
        self.metrics.write(step, values, timing)
        self._show_progress(phase, values, timing)
        if self.position.iteration % self.config.curriculum.checkpoint_every == 0:
            self._save(phase_end=None)

    def _close_phase(self, phase: curriculum.Phase) -> None:
        """Moves to the next phase; RL starts from, and is held to, the warmed-up weights."""
        self.position.phase += 1
        self.position.iteration = 0
        if phase.name == curriculum.WARMUP and self.position.phase < len(self.phases):
            self.state = train_state.restart(
                self.state, self.config.optimizer, keep_reference=self.config.grpo.beta > 0
            )
        self._save(phase_end=phase.name)

    def _save(self, phase_end: str | None) -> None:
        self.checkpoints.save(
            self.position.step, self.state, self.iterator,
            dataclasses.asdict(self.position), phase_end=phase_end,
        )  # fmt: skip

    def _show_progress(self, phase: curriculum.Phase, values, timing) -> None:
        total = sum(each.iterations for each in self.phases)
        done = self.position.step - self._steps_at_start
        left = (time.monotonic() - self._started) / done * (total - self.position.step)
        parts = [f"{phase.name} {self.position.iteration}/{phase.iterations}"]
        for name in ("loss", "reward", "success"):
            if name in values:
                parts.append(f"{name} {float(values[name]):.3f}")
        if "sampled_tokens_per_second" in timing:
            parts.append(f"{timing['sampled_tokens_per_second']:.0f} tokens/s")
        parts.append(f"{timing['seconds']:.1f} s, {left / 60:.1f} min left")
        logging.info("  ".join(parts))


def summarise(trajectories: list[Trajectory], rewards: list[Reward]) -> dict[str, float]:
    """Means over a batch of trajectories, for the metrics of an iteration."""

    def mean(values) -> float:
        return float(np.mean(list(values)))

    events = [event for trajectory in trajectories for event in trajectory.events]
    calls = [event for event in events if isinstance(event, ToolEvent)]
    count = len(trajectories)
    values = {
        "reward": mean(reward.total for reward in rewards),
        "reward_task": mean(reward.task for reward in rewards),
        "reward_context": mean(reward.context for reward in rewards),
        "reward_memory": mean(reward.memory for reward in rewards),
        "reward_penalty": mean(reward.penalty for reward in rewards),
        "success": mean(reward.task >= 1.0 for reward in rewards),
        "memory_quality": mean(
            memory_quality(t.memory, t.task.supporting_facts, t.task.stale_facts)
            for t in trajectories
        ),
        "answered": mean(t.answer is not None for t in trajectories),
        "steps": mean(t.num_steps for t in trajectories),
        "prompt_tokens": mean(np.mean(t.prompt_tokens) for t in trajectories),
        "format_errors": sum(isinstance(event, FormatEvent) for event in events) / count,
        "failed_calls": sum(not call.ok for call in calls) / max(1, len(calls)),
    }
    for name in sorted({call.name for call in calls if call.ok}):
        values[f"calls/{name}"] = sum(call.ok and call.name == name for call in calls) / count
    return values


def write_config(config: RunConfig, workdir: str | os.PathLike) -> None:
    """Keeps the run's configuration beside its results, for evaluation."""
    path = pathlib.Path(workdir) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
