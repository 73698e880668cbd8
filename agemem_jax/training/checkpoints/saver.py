"""When a run is saved, and as what: at its own pace, and in a hurry from another thread."""

import dataclasses
import threading
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from agemem_jax.tasks.pipeline import TaskIterator
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.checkpoints.parts import SaveFailed
from agemem_jax.training.checkpoints.position import Position
from agemem_jax.training.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class _Moment:
    """What a run can be continued from, as of the end of an iteration."""

    state: TrainState
    position: Position
    tasks: dict[str, int]

    def get_state(self) -> dict[str, int]:
        """As a data iterator, it stands still."""
        return self.tasks

    @property
    def is_over(self) -> bool:
        """Whether its memory was given to an update."""
        return any(leaf.is_deleted() for leaf in jax.tree.leaves(self.state))


class Saver:
    """Writes the checkpoints of one run.

    Attributes:
      step: of the newest one that was written or begun; -1 where there is none.
    """

    def __init__(self, checkpoints: Checkpoints, iterator: TaskIterator, data: dict[str, Any]):
        """A saver of what `iterator` has given so far, from the tasks that `data` identifies."""
        self.step = -1
        self._checkpoints, self._iterator, self._data = checkpoints, iterator, data
        self._lock = threading.Lock()
        self._moment: _Moment | None = None

    def mark(self, state: TrainState, position: Position) -> None:
        """What `rescue` saves from now on: the run as it stands between two iterations."""
        self._moment = _Moment(state, position, self._iterator.get_state())

    def forget(self) -> None:
        """Lets go of it; there is nothing to rescue until the next `mark`."""
        self._moment = None

    def save(
        self,
        state: TrainState,
        position: Position,
        phase_end: str | None = None,
        *,
        wait: bool = True,
    ) -> None:
        """Writes a checkpoint; see `Checkpoints.save`.

        Raises:
          SaveFailed: it could not be written.
        """
        with self._lock:
            self._checkpoints.save(
                position.step, state, self._iterator, self._record(position),
                phase_end=phase_end, wait=wait,
            )  # fmt: skip
            self.step = position.step

    def rescue(self) -> bool:
        """Saves what was marked while the main thread is busy with the next iteration.

        An update that begins meanwhile takes the memory of what is read here: then this must be
        tried again behind it. Several processes can save together only, so there nothing is
        saved.

        Returns:
          Whether the process may end. If so, nothing else is saved any more.
        """
        if not self._lock.acquire(blocking=False):
            return False  # the main thread is saving: soon it hears by itself
        try:
            done = self._rescue()
        except SaveFailed as error:
            done = self._moment is not None and not self._moment.is_over
            if done:
                logging.error("%s", error)
        if not done:
            self._lock.release()
        return done

    def _rescue(self) -> bool:
        moment = self._moment
        if jax.process_count() > 1:
            return True
        if moment is None or moment.is_over:
            return False
        if self.step == moment.position.step:
            self._checkpoints.finish()
            return True
        state = moment.state
        if jax.default_backend() == "cpu":  # where arrays are read in place
            try:
                state = jax.block_until_ready(jax.tree.map(jnp.copy, state))
            except RuntimeError:
                return False
            if moment.is_over:
                return False
        self._checkpoints.save(
            moment.position.step, state, moment, self._record(moment.position)
        )  # fmt: skip
        return True

    def _record(self, position: Position) -> dict[str, Any]:
        return {**position.to_record(), "data": self._data}
