"""The training program: warm-up, then GRPO through the curriculum's phases.

Everything an iteration depends on is in the checkpoint (`TrainState`, the data
iterators, the position in the curriculum) or follows from the configuration, so a run
that was killed ends with the same parameters, bit for bit, as one that was not.

In a job of several processes each one plays, rewards and packs its own share of an
iteration's tasks, on its own devices; they meet to agree on shapes, and in the update.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Array, Key

from agemem_jax.methods.registry import find_method
from agemem_jax.models.decoder import Weights
from agemem_jax.parallel import processes
from agemem_jax.parallel.mesh import make_mesh, make_rollout_mesh
from agemem_jax.rewards.total import ask_ahead, compute_rewards
from agemem_jax.rollout.driver import Rollout
from agemem_jax.rollout.episode import Rules
from agemem_jax.rollout.player import group_rollouts
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.pipeline import task_iterator
from agemem_jax.training import components, curriculum, train_state, warm_start
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.checkpoints.parts import SaveFailed
from agemem_jax.training.checkpoints.position import Position
from agemem_jax.training.checkpoints.saver import Saver
from agemem_jax.training.configuration import run_record
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.credit_assignment import CreditAssignment, Credited
from agemem_jax.training.faults import Faults
from agemem_jax.training.interruption import Interrupted, Interruption
from agemem_jax.training.learner import Learner, Outcome
from agemem_jax.training.monitoring import throughput
from agemem_jax.training.monitoring.banner import banner
from agemem_jax.training.monitoring.metrics import MetricsWriter
from agemem_jax.training.monitoring.summary import summarise, with_judge_counts
from agemem_jax.training.monitoring.throughput import Stopwatch
from agemem_jax.training.monitoring.validation import PhaseStopped
from agemem_jax.training.monitoring.watch import Watch
from agemem_jax.training.resampling import sample_groups
from agemem_jax.training.rollout_weights import rollout_weights
from agemem_jax.training.warmup.corpus import play_demonstrations


class Trainer:
    """Runs one configuration in one work directory. Call `run`."""

    def __init__(
        self,
        config: RunConfig,
        workdir: str | os.PathLike,
        interruption: Interruption | None = None,
        profiled: tuple[int, int] | None = None,
        report: Callable[[bool], None] | None = None,
    ):
        """Opens the backbone and sets everything up but the state, which `restore` makes.

        Args:
          config: of the run.
          workdir: where checkpoints and metrics go; all processes see the same.
          interruption: tells when to stop.
          profiled: the first and the last step of which a trace is written.
          report: is called in the first process when samples or an evaluation were written, and,
            with True, when the run ends; must not raise. See `report.growing`.

        Raises:
          ValueError: the configuration does not fit the devices of this job, or is not that
            of the run in `workdir`.
        """
        run_record.check(config, workdir)
        self.config = config
        self.workdir = epath.Path(workdir)
        self.interruption = interruption or Interruption()
        self.faults = Faults(config.faults)
        self.mesh, self._rollout_mesh = make_mesh(config.mesh), make_rollout_mesh(config.mesh)
        self._process, self._processes = jax.process_index(), jax.process_count()
        self.phases = curriculum.phases(config)
        self.judge = components.build_judge(config, self.workdir)  # first: it may refuse the run
        # Who needs its parameters reads them: what is trained of them lives in the state alone.
        self.backbone = components.build_backbone(config, self.mesh, with_params=False)
        self.learner = Learner(config, self.backbone.config, self.mesh)
        source = config.tasks.load("train")
        self.player = components.build_player(config, self.backbone, self._rollout_mesh, source)
        self.method = find_method(config.method)
        decode = self.player.chat.decode
        self.assignment = CreditAssignment(config.grpo, self.judge, decode, self.faults)
        components.check_source(source, config)
        self._train_tasks = len(source)
        self._data = components.identify_source(source)
        self.iterator = task_iterator(
            source,
            self._share(config.curriculum.tasks_per_iteration, "curriculum.tasks_per_iteration"),
            seed=config.seed,
            shard_index=self._process,
            shard_count=self._processes,
        )
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints", keep=config.curriculum.keep, config=config
        )
        self.metrics = MetricsWriter(
            self.workdir, enabled=processes.is_primary(), sinks=config.metrics.sinks
        )
        self.watch = Watch(
            config, self.workdir, self.player, self.method, self.judge, profiled, report
        )
        self.position = Position()
        self.saver = Saver(self.checkpoints, self.iterator, self._data)
        self.state: train_state.TrainState | None = None
        self._started = time.monotonic()
        self._steps_at_start = 0

    def run(self) -> None:
        """Trains to the end, continuing from the newest intact checkpoint.

        Raises:
          Interrupted: it was asked to stop, and has saved.
          SaveFailed: the end of a phase could not be saved.
          TrainingFault: more went wrong than `config.faults` allows.
        """
        self.restore()
        if processes.is_primary():
            run_record.write(self.config, self.workdir, self.position.step)
        self._announce()
        self.watch.begin(self.position, self.metrics, self.checkpoints)
        processes.wait_for_all("restored")
        self._steps_at_start = self.position.step
        self.saver.mark(self.state, self.position)
        alone = self._processes == 1
        self.interruption.begin(self.saver.rescue, patience=10.0 if alone else 60.0)
        try:
            while (phase := self.position.phase(self.phases)) is not None:
                logging.info("Phase %s: %d iterations", phase.name, phase.iterations)
                with contextlib.suppress(PhaseStopped):
                    self._validate(phase)
                    if phase.name == curriculum.WARMUP:
                        self._run_warmup(phase)
                    else:
                        self._run_grpo(phase)
                self._close_phase(phase)
        except Interrupted:
            if self.saver.step != self.position.step:
                self.saver.save(self.state, self.position)
            raise
        finally:
            self.watch.close()
            self.metrics.close()
            self.checkpoints.close()
            self.player.environments.close()

    def _announce(self) -> None:
        if processes.is_primary():
            text = banner(
                self.config, self.backbone.config, self.state, self.player.engine.config,
                phases=self.phases,
                meshes={"training": self.mesh, "rollouts": self._rollout_mesh},
                train_tasks=self._train_tasks, workdir=self.workdir,
                checkpoints=self.checkpoints.directory,
                step=None if self.saver.step < 0 else self.saver.step,
            )  # fmt: skip
            logging.info("%s", text)

    def _share(self, count: int, name: str) -> int:
        """This process's part of something that all share evenly."""
        if count % self._processes:
            raise ValueError(
                f"{name} is {count}, which {self._processes} processes cannot share evenly; take a "
                f"multiple of {self._processes}."
            )
        return count // self._processes

    def _stop_if_asked(self) -> None:
        """All processes stop at the same point, when one of them was asked to.

        Raises:
          Interrupted: in every process.
        """
        if any(processes.gather(self.interruption.asked)):
            self.interruption.ask("Another process was asked to stop")
            self.interruption.check()

    def _rules(self, phase: curriculum.Phase) -> Rules:
        """How episodes of a phase are played, by the method that is trained."""
        return self.method.rules(self.player, phase.episode)

    # --- Phases ------------------------------------------------------------------

    def _run_warmup(self, phase: curriculum.Phase) -> None:
        """Imitates the scripted agent; the demonstrations follow from the seed."""
        config = self.config
        demonstrations = play_demonstrations(
            config, self.player, self._rules(phase), self.interruption.check
        )
        logging.info("Warm-up on %d demonstrations", len(demonstrations))
        prefix = self._rules(phase).shared_prefix
        vocabulary = range(self.backbone.config.vocab_size)
        while self.position.iteration < phase.iterations:
            self._stop_if_asked()
            clock = Stopwatch()
            rng = np.random.default_rng([config.seed, self.position.iteration])
            if self.position.iteration < config.warmup.drill.steps:
                chosen = config.warmup.drill.exercises(self.position.iteration, rng, vocabulary)
            else:
                picks = rng.choice(len(demonstrations), size=config.warmup.batch)
                chosen = [demonstrations[i] for i in picks]
            own = chosen[self._process :: self._processes]
            self.state, outcome = self.learner.imitate(self.state, own, prefix, clock)
            self._finish_iteration(phase, {}, outcome, clock)

    def _run_grpo(self, phase: curriculum.Phase) -> None:
        """Rolls out groups, rewards them, updates; one batch of tasks per iteration."""
        stats = self.player.engine.stats
        while self.position.iteration < phase.iterations:
            clock, sampled_before = Stopwatch(), stats.sampled_tokens
            before = self.iterator.get_state()
            try:
                groups = sample_groups(
                    functools.partial(self._play, phase, clock),
                    functools.partial(compute_rewards, config=phase.rewards, judge=self.judge),
                    self.config.grpo, self.config.curriculum.tasks_per_iteration, clock,
                )  # fmt: skip
                chosen = self._advantages(phase, *groups.to_train_on, clock)
            except Interrupted:
                self.iterator.set_state(before)  # these tasks are played again
                raise
            sampled = sum(processes.gather(stats.sampled_tokens - sampled_before))
            summary = with_judge_counts(summarise(groups.intact, groups.rewards), self.judge)
            summary |= {"sampled_tokens": sampled, **groups.counts, **chosen.counts}
            summary["groups_dropped"] += chosen.dropped
            self.faults.watch_episodes(groups.left_out_faults)
            self.watch.sample(self.position.step + 1, groups.intact, groups.rewards, chosen)
            self.state, outcome = self.learner.improve(
                self.state, chosen.trajectories, chosen.advantages,
                self._rules(phase).shared_prefix,
                np.random.default_rng([self.config.seed, self.position.step]), clock,
            )  # fmt: skip
            every = self.config.grpo.renew_reference_every
            if every and (self.position.iteration + 1) % every == 0:
                self.state = train_state.renew_reference(self.backbone.config, self.state)
            self._finish_iteration(phase, summary, outcome, clock)

    def _play(self, phase: curriculum.Phase, clock: Stopwatch, number: int) -> list[Trajectory]:
        """This process's share of a round of the iteration's rollouts, group after group."""
        rollouts = group_rollouts(
            next(self.iterator), self.config.grpo.group_size, self._iteration_key(),
            shard_index=self._process, shard_count=self._processes,
            first=number * self.config.curriculum.tasks_per_iteration,
        )  # fmt: skip
        with clock.measure("rollout"):
            return self._play_together(phase, rollouts)

    def _play_together(
        self, phase: curriculum.Phase, rollouts: Sequence[Rollout]
    ) -> list[Trajectory]:
        """Plays this process's rollouts while the others play theirs.

        Raises:
          Interrupted: in every process, where one was asked to stop.
        """
        try:
            trajectories = self.player.play(
                self._rollout_weights(), rollouts, self._rules(phase), self.config.temperature,
                self.interruption.check,
                functools.partial(ask_ahead, config=phase.rewards, judge=self.judge),
            )  # fmt: skip
        except Interrupted:
            self._stop_if_asked()  # where the other processes are waiting
            raise
        self._stop_if_asked()
        return trajectories

    def _iteration_key(self) -> Key[Array, ""]:
        return jax.random.fold_in(processes.own_copy(self.state.key), self.position.step)

    def _advantages(self, phase: curriculum.Phase, trajectories, rewards, clock) -> Credited:
        """What to train on; branches of episodes are played on the way (`credit_assignment.py`)."""
        return self.assignment.credit(
            trajectories, rewards, self._iteration_key(),
            functools.partial(self._play_together, phase),
            functools.partial(compute_rewards, config=phase.rewards, judge=self.judge), clock,
        )  # fmt: skip

    # --- State -------------------------------------------------------------------

    def _rollout_weights(self) -> Weights:
        """The policy's weights, as this process's rollouts use them."""
        return rollout_weights(
            train_state.weights(self.state), self.backbone.config, self.player.engine.config,
            self.mesh, self._rollout_mesh,
        )  # fmt: skip

    def _phase_optimizer(self, phase: curriculum.Phase):
        warmup = phase.name == curriculum.WARMUP
        return self.config.warmup_optimizer if warmup else self.config.rl_optimizer

    def _state_options(self) -> dict[str, Any]:
        return {"keep_reference": self.config.grpo.beta > 0, "mesh": self.mesh}

    def _fresh_state(self) -> train_state.TrainState:
        def create(params):
            return train_state.create(
                self.backbone.config, params, self._phase_optimizer(self.phases[0]),
                key=jax.random.key(self.config.seed), donate=True, **self._state_options(),
            )  # fmt: skip

        return warm_start.begin(self.config, self.backbone, self.mesh, create)

    def _state_template(self) -> train_state.TrainState:
        """What a checkpoint is read into: shapes, and the weights that LoRA leaves as they are."""
        template = train_state.abstract_state(
            self.backbone.config, self._phase_optimizer(self.phases[0]), **self._state_options()
        )
        if self.backbone.config.lora_rank:
            template = template.replace(frozen=self.backbone.read_params())
        return template

    def restore(self) -> tuple[train_state.TrainState, Position]:
        """Takes up the newest intact checkpoint, or makes the state to begin with."""
        if self.checkpoints.latest() is None:
            self.state = self._fresh_state()
            return self.state, self.position
        restored = self.checkpoints.restore_latest(self._state_template(), self.iterator)
        if restored is not None:
            self.state, position = restored
            data = position.get("data", self._data)  # absent in earlier checkpoints
            if data != self._data:
                raise ValueError(
                    f"The run in {self.workdir} was trained on {data['tasks']} tasks, and the "
                    f"training data now is another, of {self._data['tasks']} tasks; give it the "
                    "data that it had, or take another --workdir."
                )
            self.position = Position.from_record(position, self.phases, self.watch.settings)
            self.saver.step = self.position.step
            logging.info("Continuing at step %d", self.position.step)
        return self.state, self.position

    def _finish_iteration(
        self, phase: curriculum.Phase, summary, outcome: Outcome, clock: Stopwatch
    ) -> None:
        for each in outcome.updates:
            self.faults.watch_update(self.position.step, each)
        values = summary | outcome.metrics()
        timing = throughput.timing(self.backbone.config, values, outcome.work, clock)
        self.position = self.position.advance()
        step = self.position.step
        values = {"phase": phase.name, "iteration": self.position.iteration, **values}
        values |= self.faults.take()
        self.metrics.write(step, values, timing)
        if processes.is_primary():
            total = sum(each.iterations for each in self.phases)
            pace = (time.monotonic() - self._started) / (step - self._steps_at_start)
            left = pace * (total - step)
            logging.info("%s", throughput.progress_line(phase.iterations, values, timing, left))
        self.saver.mark(self.state, self.position)
        self._validate(phase)
        if self.position.iteration % self.config.curriculum.checkpoint_every == 0:
            self._save_on_the_way()

    def _validate(self, phase: curriculum.Phase) -> None:
        """Evaluates the policy between two iterations, where that is due; see `Watch`."""
        self.position = self.watch.validate(
            phase, self.position, self.state, self._rollout_weights,
            self.interruption.check, self._stop_if_asked,
        )  # fmt: skip
        self.saver.mark(self.state, self.position)
        self.watch.check_patience(phase, self.position)

    def _close_phase(self, phase: curriculum.Phase) -> None:
        """Moves to the next phase; RL starts from, and is held to, the warmed-up weights."""
        self.position = self.position.close(phase)
        self.saver.forget()  # what is made anew is not held besides
        if phase.name == curriculum.WARMUP and len(self.phases) > 1:
            self.state = train_state.restart(
                self.backbone.config, self.state, self.config.rl_optimizer, **self._state_options()
            )  # fmt: skip
        self.saver.mark(self.state, self.position)
        self.saver.save(self.state, self.position, phase.name)

    def _save_on_the_way(self) -> None:
        """A failure costs work only if the run ends before the next checkpoint."""
        try:
            self.saver.save(self.state, self.position, wait=False)
        except SaveFailed as error:
            self.faults.count("failed_saves", error)
