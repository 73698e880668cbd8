"""What a run shows of itself while it trains: evaluations, samples, a report, a trace.

All of it looks on: with or without it the same is trained. Evaluations decide two things, which
weights are kept as the best ones and whether a phase ends early.
"""

import dataclasses
import os
from collections.abc import Callable

from absl import logging

from agemem_jax.methods.registry import Method
from agemem_jax.models.decoder import Weights
from agemem_jax.parallel import processes
from agemem_jax.rewards.judges import Judge
from agemem_jax.rollout.player import Player
from agemem_jax.training import curriculum
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.checkpoints.parts import SaveFailed
from agemem_jax.training.checkpoints.position import Position
from agemem_jax.training.configuration import run_record
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.credit_assignment import Credited
from agemem_jax.training.interruption import Interrupted
from agemem_jax.training.monitoring.metrics import MetricsWriter
from agemem_jax.training.monitoring.profiling import Profiler
from agemem_jax.training.monitoring.samples import Samples
from agemem_jax.training.monitoring.validation import PhaseStopped, Validation
from agemem_jax.training.train_state import TrainState


class Watch:
    """Watches one run. `begin` comes first.

    Attributes:
      settings: what values of evaluations depend on, see `Standing`.
    """

    def __init__(
        self,
        config: RunConfig,
        workdir: str | os.PathLike,
        player: Player,
        method: Method,
        judge: Judge,
        profiled: tuple[int, int] | None = None,
        report: Callable[[bool], None] | None = None,
    ):
        """Args:
        config, workdir, player, method, judge: of the run.
        profiled: the first and the last step that is traced.
        report: see `Trainer`.

        Raises:
          ValueError: the run has no such steps, or no tasks to evaluate on.
        """
        self._config = config
        self._validation = Validation(config, player, method, judge)
        self.settings = self._validation.settings
        self._samples = Samples(config.samples, workdir)
        shown = config.samples.every or config.validation.every
        self._report = report if shown and processes.is_primary() else None
        total = sum(phase.iterations for phase in curriculum.phases(config))
        self._profiler = Profiler(profiled, workdir, total)

    def begin(self, position: Position, metrics: MetricsWriter, checkpoints: Checkpoints) -> None:
        """Goes on from `position`: what was written past it is forgotten."""
        self._metrics, self._checkpoints = metrics, checkpoints
        standing = position.standing
        metrics.forget_after(position.step, standing.evaluated)
        metrics.open(position.step, run_record.as_values(self._config))
        if self._validation.tasks:
            logging.info("Validation: %s", self._validation.describe())
            checkpoints.go_back_to_best(position.step, standing.best_step)
        self._profiler.at(position.step)

    def validate(
        self,
        phase: curriculum.Phase,
        position: Position,
        state: TrainState,
        weights: Callable[[], Weights],
        check: Callable[[], None],
        agree: Callable[[], None],
    ) -> Position:
        """Evaluates the policy where that is due, and keeps it if none was better.

        Args:
          phase: under way.
          position: where the run stands, between two iterations.
          state: of training.
          weights: gives those of the policy to this process's rollouts.
          check: raises Interrupted where this process was asked to stop.
          agree: does so in all processes, where one of them was asked.

        Returns:
          The position with what came out.

        Raises:
          Interrupted: by `check` or `agree`; this evaluation was not.
        """
        self._profiler.at(position.step)
        if not self._validation.is_due(phase, position):
            return position
        together = False

        def all_agree() -> None:
            nonlocal together
            together = True
            agree()

        try:
            value, values, seconds = self._validation.run(weights, check, all_agree)
        except Interrupted:
            if not together:
                agree()  # where the other processes are waiting
            raise
        values = {"phase": phase.name, "iteration": position.iteration, **values}
        self._metrics.write(position.step, values, seconds)
        self._grow()
        standing = dataclasses.replace(position.standing, settings=self.settings)
        standing = standing.after(position.step, value)
        best = standing.best_step == position.step
        self._tell(position, values, seconds, best)
        if best and self._config.validation.keep_best:
            self._keep(position.step, state, values, phase)
        return dataclasses.replace(position, standing=standing)

    def _tell(self, position: Position, values, seconds, best: bool) -> None:
        metric = f"eval/{self._config.validation.metric}"
        if metric in values:
            logging.info(
                "Evaluation at step %d: %s %.3f [%.3f, %.3f] on %d tasks, %.1f s%s", position.step,
                metric.removeprefix("eval/"), values[metric], values[f"{metric}_low"],
                values[f"{metric}_high"], values["eval/tasks"],
                seconds["eval/seconds"], ", the best so far" if best else "",
            )  # fmt: skip

    def _keep(self, step: int, state: TrainState, values, phase: curriculum.Phase) -> None:
        metric = f"eval/{self._config.validation.metric}"
        told = {
            "metric": self._config.validation.metric,
            "value": values[metric],
            "low": values[f"{metric}_low"],
            "high": values[f"{metric}_high"],
            "tasks": values["eval/tasks"],
            "phase": phase.name,
        }
        try:
            self._checkpoints.save_best(step, state, told)
        except SaveFailed as error:
            logging.error("The best weights so far are not kept: %s", error)

    def check_patience(self, phase: curriculum.Phase, position: Position) -> None:
        """Ends a phase that has not become better for long.

        Raises:
          PhaseStopped: it has not.
        """
        if phase.name != curriculum.WARMUP and self._validation.is_over(position):
            standing = position.standing
            logging.info(
                "Phase %s ends early, after %d of %d iterations: in %d evaluations %s has not "
                "risen above %.3f.", phase.name, position.iteration, phase.iterations,
                standing.without_gain, self._config.validation.metric, standing.phase_best,
            )  # fmt: skip
            raise PhaseStopped

    def sample(self, step: int, played, rewards, credited: Credited) -> None:
        """Writes some trajectories of the iteration `step`; see `Samples.write`."""
        advantages = [credit.steps for credit in credited.advantages]
        if self._samples.write(step, played, rewards, credited.trajectories, advantages):
            self._grow()

    def _grow(self, last: bool = False) -> None:
        """Has a report show what was just written, where there is one."""
        if self._report is not None:
            self._report(last)

    def close(self) -> None:
        """The run ends, in whatever way."""
        self._grow(last=True)
        self._profiler.close()
