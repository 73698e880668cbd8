"""Reads the checkpoints of a run, and compares them with what is asked of them."""

import gc
import os
from typing import Any

from absl import logging
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from agemem_jax.training.checkpoints import integrity
from agemem_jax.training.checkpoints.folder import CheckpointFolder
from agemem_jax.training.checkpoints.parts import (
    JSON_FILE,
    CheckpointInfo,
    DamagedCheckpoint,
    JsonFile,
    abstract,
    split_state,
)
from agemem_jax.training.configuration import run_record
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.train_state import TrainState


class CheckpointReader:
    """The checkpoints of one run as they stand on disk; nothing is changed there.

    Attributes:
      directory: where they are.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        config: RunConfig | None = None,
        compared: tuple[str, ...] = ("",),
    ):
        """Args:
        directory: of the run's checkpoints.
        config: of the run, compared with that of every checkpoint that is read.
        compared: how the names of options begin that must agree.
        """
        self._folder = CheckpointFolder(directory)
        self.directory = self._folder.path
        self._config, self._compared = config, compared
        self._damaged: list[CheckpointInfo] = []
        self._frozen_fingerprint: int | None = None

    def all(self) -> list[CheckpointInfo]:
        """See `CheckpointFolder.all`."""
        return self._folder.all()

    def find(self, name: str) -> CheckpointInfo:
        """See `CheckpointFolder.find`."""
        return self._folder.find(name)

    def latest(self) -> CheckpointInfo | None:
        """The newest checkpoint, intact or not; None where a run has none yet."""
        return next(iter(self.all()), None)

    def restore_latest(
        self, template: TrainState, iterator: Any = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Reads the newest checkpoint that is intact; logs each damaged one it passes over.

        Args:
          template: a state of the same configuration: arrays, or `jax.ShapeDtypeStruct`s
            with shardings. Its `frozen` is handed on as it is.
          iterator: a Grain iterator over the same data, restored in place.

        Returns:
          (state, position), or None where the run has no checkpoint yet.

        Raises:
          ValueError: there are checkpoints but none is intact, or the newest intact one was
            written with another configuration, other base weights, or without an iterator.
        """
        infos = self.all()
        damaged = []
        for info in infos:
            try:
                restored = self._load(info, template, iterator)
            except DamagedCheckpoint as error:
                logging.error("%s Trying the one before it.", str(error))
                damaged.append(info)
            else:
                self._damaged = damaged
                return restored
            gc.collect()  # what a failed read has read is held by its own traceback
        if not infos:
            return None
        raise ValueError(
            f"None of the {len(infos)} checkpoints in {self.directory} is intact (the newest is "
            f"{infos[0].path}); put an intact copy there, or start a run in another directory."
        )

    def position(self) -> dict[str, Any] | None:
        """Where the run stands by its newest readable checkpoint; None where it has none.

        Raises:
          ValueError: it was written under another configuration.
        """
        for info in self.all():
            try:
                return self._read_record(info)["position"]
            except DamagedCheckpoint as error:
                logging.error("%s Looking at the one before it.", error)
        return None

    def find_phase(self, name: str) -> CheckpointInfo:
        """The checkpoint that closed phase `name`.

        Raises:
          FileNotFoundError: no such phase has ended.
        """
        infos = self.all()
        for info in infos:
            if info.phase == name:
                return info
        ended = sorted({info.phase for info in infos if info.phase is not None})
        raise FileNotFoundError(
            f"No phase named {name!r} has ended in {self.directory}; phases that have: "
            f"{', '.join(ended) or 'none'}."
        )

    def restore_phase(
        self, name: str, template: TrainState, iterator: Any = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Reads the checkpoint that closed phase `name`; otherwise as `restore_latest`.

        Raises:
          FileNotFoundError: no such phase has ended.
          ValueError: its checkpoint is damaged or does not fit the template.
        """
        info = self.find_phase(name)
        try:
            return self._load(info, template, iterator)
        except DamagedCheckpoint as error:
            raise ValueError(str(error)) from error

    def restore_trainable(self, info: CheckpointInfo, template: PyTree) -> PyTree:
        """Reads only the trained weights of one checkpoint, as evaluation wants them.

        Args:
          info: one of `all()`, or from `find_phase` or `latest`.
          template: `TrainState.trainable` of the same configuration, arrays or abstract.
        """
        try:
            self._folder.verify_files(info)
            record = self._read_record(info)
            self._check_layout(info, record, {"trainable": template})
            return self._read(info, {"trainable": abstract(template)})["trainable"]
        except DamagedCheckpoint as error:
            raise ValueError(str(error)) from error

    def has_base(self, info: CheckpointInfo, frozen: PyTree | None) -> bool:
        """Whether a checkpoint was written beside these frozen weights, as far as can be told.

        Processes of a job that hold a part each cannot tell.
        """
        written = self._read_record(info)["frozen"]
        ours = None if frozen is None else integrity.fingerprint(frozen)
        return None in (written, ours) or written == ours

    def _load(
        self, info: CheckpointInfo, template: TrainState, iterator: Any
    ) -> tuple[TrainState, dict[str, Any]]:
        self._folder.verify_files(info)
        record = self._read_record(info)
        parts = split_state(template)
        self._check_layout(info, record, parts)
        if record["frozen"] is not None:
            fingerprint = self._fingerprint_frozen(template)
            if fingerprint is not None and fingerprint != record["frozen"]:
                raise ValueError(
                    f"The checkpoint {info.path} was trained on other base weights than the ones "
                    "loaded now; use the backbone that the run started with."
                )
        wanted = {name: abstract(part) for name, part in parts.items()}
        if iterator is not None:
            if not record["has_iterator"]:
                raise ValueError(
                    f"The checkpoint {info.path} holds no data iterator, so the data cannot go on "
                    "where it stopped; restore it without one."
                )
            ours = (info.path / "iterator" / JSON_FILE).exists()
            wanted["iterator"] = JsonFile() if ours else iterator  # Grain's own, as of before
        loaded = self._read(info, wanted)
        if iterator is not None and ours:
            iterator.set_state(loaded["iterator"].value)
        state = template.replace(trainable=loaded["trainable"], **loaded["training"])
        return state, record["position"]

    def _read_record(self, info: CheckpointInfo) -> dict[str, Any]:
        record = self._read(info, {"record": JsonFile()})["record"].value
        expected = {"position", "layout", "frozen", "has_iterator"}
        if not isinstance(record, dict) or not expected <= record.keys():
            raise DamagedCheckpoint(f"The checkpoint {info.path} is damaged: its record is broken.")
        written = record.get("config")  # absent in checkpoints of earlier versions
        if written is not None and self._config is not None:
            # What is not compared is not built: the code of a user's tasks may be elsewhere.
            counted = {
                name: value
                for name, value in written.items()
                if f"{name}.".startswith(self._compared)
            }
            run_record.refuse_conflicts(
                f"The checkpoint {info.path}", run_record.from_values(counted), self._config,
                self._compared,
            )  # fmt: skip
        return record

    def _read(self, info: CheckpointInfo, wanted: dict[str, Any]) -> dict[str, Any]:
        # Orbax reports damage by many exception types, some of them bare `Exception`.
        try:
            return ocp.load_checkpointables(info.path, wanted)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise DamagedCheckpoint(f"The checkpoint {info.path} is damaged: {reason}.") from error

    def _check_layout(
        self, info: CheckpointInfo, record: dict[str, Any], parts: dict[str, PyTree]
    ) -> None:
        for name, part in parts.items():
            saved, wanted = record["layout"][name], integrity.layout(part)
            for path in sorted(saved.keys() | wanted.keys()):
                if saved.get(path) != wanted.get(path):
                    raise ValueError(
                        f"The checkpoint {info.path} was written with another configuration: "
                        f"{name}{path} is {saved.get(path, 'absent')} there and "
                        f"{wanted.get(path, 'absent')} here; use the configuration of the run."
                    )

    def _fingerprint_frozen(self, state: TrainState) -> int | None:
        """Frozen weights never change within a run: one look at their bytes is enough."""
        if state.frozen is None:
            return None
        if self._frozen_fingerprint is None:
            self._frozen_fingerprint = integrity.fingerprint(state.frozen)
        return self._frozen_fingerprint
