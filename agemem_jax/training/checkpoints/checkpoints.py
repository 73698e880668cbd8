"""Checkpoints of a run: what is needed to go on, bit for bit, where it stopped.

Orbax writes each one atomically. Of those inside a phase the newest few are kept; the end of
every curriculum phase is kept for ever. Where they are: `folder.py`. What did best
by an evaluation is kept as weights alone, to act with and not to go on from.
"""

import contextlib
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

from agemem_jax.parallel import processes
from agemem_jax.training.checkpoints import integrity
from agemem_jax.training.checkpoints.parts import (
    CheckpointInfo,
    JsonFile,
    SaveFailed,
    split_state,
)
from agemem_jax.training.checkpoints.reader import CheckpointReader
from agemem_jax.training.configuration import run_record
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.train_state import TrainState

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


class Checkpoints(CheckpointReader):
    """The checkpoints of one run, read and written.

    Args:
      directory: of the run's checkpoints; made when missing, unless `read_only`.
      keep: how many checkpoints inside phases are kept. Should the newest be damaged,
        the one before takes its place, so 2 is the least.
      read_only: for evaluation beside a run that may still write: never writes, never
        cleans up.
      config: of the run. It is written into every checkpoint, and compared with that of
        every checkpoint that is read.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int = 3,
        read_only: bool = False,
        config: RunConfig | None = None,
    ):
        if keep < 2:
            raise ValueError(
                f"Checkpoints got keep = {keep}; it must be at least 2, so that one is left when "
                "the newest is damaged."
            )
        super().__init__(directory, config, run_record.OF_WEIGHTS if read_only else ("",))
        self._keep = keep
        self._read_only = read_only
        self._writers: dict[epath.Path, ocp.training.Checkpointer] = {}
        self._under_way: tuple[CheckpointInfo, Any] | None = None

    def save(
        self,
        step: int,
        state: TrainState,
        iterator: Any = None,
        position: dict[str, Any] | None = None,
        *,
        phase_end: str | None = None,
        wait: bool = True,
    ) -> CheckpointInfo:
        """Writes one checkpoint.

        In a job of several processes all of them must call this, `finish` and the rest.

        Args:
          step: counts up over the whole run, phases included.
          state: everything but `state.frozen` is written; of that, a checksum.
          iterator: a Grain iterator, or None.
          position: JSON values: where in the curriculum the run is, and what else is
            needed to go on.
          phase_end: name of the phase that this checkpoint closes; it is kept for ever.
          wait: return when the checkpoint is complete. Otherwise it is written while the
            caller goes on, and is complete after `finish` or the next `save`.

        Raises:
          SaveFailed: this checkpoint, or the one that was under way, could not be written;
            those before it are as they were.
        """
        if self._read_only:
            raise ValueError(f"The checkpoints in {self.directory} were opened read-only.")
        if phase_end is not None and not _NAME.fullmatch(phase_end):
            raise ValueError(
                f"phase_end is {phase_end!r}; it must be a name of letters, digits, '.', '+', '-' "
                "and '_'."
            )
        self.finish()
        self._set_damaged_aside()
        info = CheckpointInfo(step, phase_end, self._folder.inside(phase_end) / str(step))
        if info.path.exists():  # a run that was taken up again from an older checkpoint
            self._set_aside(info)

        parts = split_state(state)
        checkpointables = {**parts, "record": self._record(state, parts, iterator, position)}
        if iterator is not None:  # the same number in every process, whatever share it reads
            checkpointables["iterator"] = JsonFile(iterator.get_state())
        if not wait and jax.default_backend() == "cpu":
            # Where the host reads an array in place, an update must not be given its memory.
            checkpointables |= jax.tree.map(jnp.copy, parts)
        with self._named_failure(info):
            response = self._writer(phase_end).save_checkpointables_async(
                step, checkpointables, force=True
            )
        self._under_way = info, response
        if wait:
            self.finish()
        return info

    def _record(self, state: TrainState, parts, iterator=None, position=None) -> JsonFile:
        """What is told of what a checkpoint holds."""
        return JsonFile(
            {
                "position": position or {},
                "layout": {name: integrity.layout(part) for name, part in parts.items()},
                "frozen": self._fingerprint_frozen(state),
                "has_iterator": iterator is not None,
                "config": None if self._config is None else run_record.as_values(self._config),
            }
        )

    def save_best(self, step: int, state: TrainState, values: dict[str, Any]) -> None:
        """Keeps the weights of `state` as the best ones; all processes must call this.

        Those that were the best before stay as long as a checkpoint that the run may go on from
        tells of them: from there on, they are the best again.

        Args:
          step: as of `save`.
          state: of which what is trained is written.
          values: JSON values for `best.json`, beside the step.

        Raises:
          SaveFailed: it could not be written; the best ones are those of before.
        """
        info = CheckpointInfo(step, None, self.directory / "best" / str(step))
        self.finish()
        parts = {"trainable": state.trainable}
        with self._named_failure(info):
            wanted = {**parts, "record": self._record(state, parts, position=values)}
            ocp.save_checkpointables(info.path, wanted, overwrite=True)
            if processes.is_primary():
                self._folder.write_manifest(info)
                self._folder.tell_best({"step": step, **values})
                self._folder.forget_best_but({step, *self._best_of_others()})

    def _best_of_others(self) -> list[int]:
        """The steps that were the best ones as of the newest checkpoints."""
        told = [
            self._folder.read_position(info).get("standing", {})
            for info in self.all()[: self._keep + 1]
        ]
        return [each["best_step"] for each in told if each.get("best_step") is not None]

    def go_back_to_best(self, now: int, step: int | None) -> None:
        """Has `best.json` tell of what was the best one where a run goes on.

        Args:
          now: the step at which it does.
          step: of that one; None where there was none.
        """
        if not processes.is_primary():
            return
        path = self.directory / "best" / str(step)
        if step is not None and path.is_dir():
            values = self._folder.read_position(CheckpointInfo(step, None, path))
            self._folder.tell_best({"step": step, **values})
        elif self._folder.read_best().get("step", now) > now:
            self._folder.tell_best(None)

    def finish(self) -> None:
        """Returns when what `save` began is complete.

        Raises:
          SaveFailed: it could not be written.
        """
        if self._under_way is None:
            return
        (info, response), self._under_way = self._under_way, None
        with self._named_failure(info):
            if response is not None:
                response.result()
            if processes.is_primary():
                self._folder.write_manifest(info)

    def close(self) -> None:
        """Completes what is under way, and lets go of Orbax's threads."""
        self.finish()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    # Damage.

    def _set_damaged_aside(self) -> None:
        for info in self._damaged:
            if info.path.exists():
                self._set_aside(info)
        self._damaged = []

    def _set_aside(self, info: CheckpointInfo) -> None:
        self._folder.set_aside(info)
        if info.path.parent in self._writers:
            self._writers[info.path.parent].reload()

    # Writing.

    @contextlib.contextmanager
    def _named_failure(self, info: CheckpointInfo):
        """Orbax reports failures by many exception types, some of them bare `Exception`."""
        try:
            yield
        except Exception as error:
            # A writer that has failed once would tell of it again instead of writing.
            writer = self._writers.pop(info.path.parent, None)
            with contextlib.suppress(Exception):
                writer.close()
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise SaveFailed(
                f"The checkpoint {info.path} could not be written: {reason}."
            ) from error

    def _writer(self, phase: str | None) -> ocp.training.Checkpointer:
        folder = self._folder.inside(phase)
        if folder not in self._writers:
            policies = ocp.training.preservation_policies
            folder.mkdir(parents=True, exist_ok=True)
            self._writers[folder] = ocp.training.Checkpointer(
                folder,
                preservation_policy=policies.LatestN(self._keep)
                if phase is None
                else policies.PreserveAll(),
                cleanup_tmp_directories=True,
            )
        return self._writers[folder]
