"""Where a run stands in its curriculum, as checkpoints hold it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_jax.training.checkpoints.standing import Standing
from agemem_jax.training.curriculum import WARMUP, Phase


@dataclasses.dataclass(frozen=True)
class Position:
    """Which phases have ended, and how far the one after them is.

    Attributes:
      ended: iterations of every phase that has ended, by name.
      iteration: iterations done in the phase that is under way.
      step: iterations in all, over all phases.
      stopped: of the phases that were ended early, how many iterations they had been given.
      standing: what evaluations have shown so far.
    """

    ended: Mapping[str, int] = dataclasses.field(default_factory=dict)
    iteration: int = 0
    step: int = 0
    stopped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    standing: Standing = Standing()

    def phase(self, phases: Sequence[Phase]) -> Phase | None:
        """The phase under way; None when all have ended."""
        return next((phase for phase in phases if phase.name not in self.ended), None)

    def advance(self) -> "Position":
        """One iteration later."""
        return dataclasses.replace(self, iteration=self.iteration + 1, step=self.step + 1)

    def close(self, phase: Phase) -> "Position":
        """Behind the end of `phase`."""
        early = {phase.name: phase.iterations} if self.iteration < phase.iterations else {}
        return dataclasses.replace(
            self,
            ended={**self.ended, phase.name: self.iteration},
            iteration=0,
            stopped={**self.stopped, **early},
            standing=self.standing.in_next_phase(),
        )

    def to_record(self) -> dict[str, Any]:
        """JSON values, as a checkpoint's record holds them."""
        return {
            "ended": dict(self.ended),
            "iteration": self.iteration,
            "step": self.step,
            "stopped": dict(self.stopped),
            "standing": self.standing.to_record(),
        }

    @classmethod
    def from_record(
        cls, record: Mapping[str, Any], phases: Sequence[Phase], settings: str = ""
    ) -> "Position":
        """The position of a checkpoint, taken up by a run with these phases.

        The phase that has ended last is under way again where it has more iterations now.

        Args:
          record: what `to_record` gave. Earlier versions gave the number of the phase instead
            of the names of those before it.
          phases: of the run as it is configured now.
          settings: of its evaluations now.

        Raises:
          ValueError: the phases have fewer iterations than are done, or one that has ended, and
            is not the last, has more.
        """
        if "phase" in record:
            position = cls._from_number(record, phases)
        else:
            position = cls(
                dict(record["ended"]), record["iteration"], record["step"],
                dict(record.get("stopped", {})),  # absent in earlier checkpoints, as the next
                Standing.from_record(record.get("standing", {}), settings),
            )  # fmt: skip
        return position._taken_up(phases)

    @classmethod
    def _from_number(cls, record: Mapping[str, Any], phases: Sequence[Phase]) -> "Position":
        before = phases[: record["phase"]]
        ended = {phase.name: phase.iterations for phase in before}
        if before:  # the last of them may have been given more since
            last = before[-1].name
            ended[last] += record["step"] - record["iteration"] - sum(ended.values())
        return cls(ended, record["iteration"], record["step"])

    def _taken_up(self, phases: Sequence[Phase]) -> "Position":
        wanted = {phase.name: phase.iterations for phase in phases}
        names = [phase.name for phase in phases]
        position = self
        last = next(reversed(self.ended), None)
        extends = last not in (None, WARMUP) and self.iteration == 0
        if extends and wanted.get(last, 0) > self.stopped.get(last, self.ended[last]):
            ended, stopped = dict(self.ended), dict(self.stopped)
            stopped.pop(last, None)
            position = dataclasses.replace(
                self, ended=ended, iteration=ended.pop(last), stopped=stopped
            )
        for name, count in position.ended.items():
            if wanted.get(name, 0) != position.stopped.get(name, count):
                raise ValueError(
                    f"Phase {name} of this run has ended after {count} iterations, and the "
                    f"configuration asks for {wanted.get(name, 0)} now; only the phase that is "
                    "under way, or the last one of a finished run, can be given more."
                )
        phase = position.phase(phases)
        if phase is None:
            return position
        skipped = names[: names.index(phase.name)]
        late = [name for name in position.ended if name not in skipped]
        if late:
            raise ValueError(
                f"Phase {phase.name} has iterations now, but {late[0]}, which comes behind it, has "
                "ended already; give it none, or take another --workdir."
            )
        if position.iteration > phase.iterations:
            raise ValueError(
                f"{position.iteration} iterations of phase {phase.name} are done, and the "
                f"configuration asks for {phase.iterations}; ask for as many at least."
            )
        return position
