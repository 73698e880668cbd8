"""Checkpoints of a run: what is needed to go on, bit for bit, where it stopped.

Orbax writes each one atomically. Those inside a phase live under `steps/`, of which the
newest few are kept; the end of every curriculum phase is kept for ever under
`phases/<name>/`. Beside them, `manifests/` holds a checksum of every file, so that damage
is noticed before it is trained on.
"""

import contextlib
import gc
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from agemem_jax.parallel import processes
from agemem_jax.training import integrity, run_record
from agemem_jax.training.checkpoint_parts import (
    JSON_FILE,
    CheckpointInfo,
    DamagedCheckpoint,
    JsonFile,
    SaveFailed,
    abstract,
    split_state,
)
from agemem_jax.training.run_config import RunConfig
from agemem_jax.training.train_state import TrainState

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


class Checkpoints:
    """The checkpoints of one run.

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
        self.directory = epath.Path(directory)
        if "://" not in os.fspath(directory):  # Orbax wants the whole path
            self.directory = self.directory.absolute()
        self._keep = keep
        self._config = config
        self._read_only = read_only
        self._writers: dict[epath.Path, ocp.training.Checkpointer] = {}
        self._damaged: list[CheckpointInfo] = []
        self._frozen_fingerprint: int | None = None
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
        info = CheckpointInfo(step, phase_end, self._folder(phase_end) / str(step))
        if info.path.exists():  # a run that was taken up again from an older checkpoint
            self._set_aside(info)

        parts = split_state(state)
        record = {
            "position": position or {},
            "layout": {name: integrity.layout(part) for name, part in parts.items()},
            "frozen": self._fingerprint_frozen(state),
            "has_iterator": iterator is not None,
            "config": None if self._config is None else run_record.as_values(self._config),
        }
        checkpointables = {**parts, "record": JsonFile(record)}
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
                self._write_manifest(info)

    def all(self) -> list[CheckpointInfo]:
        """Every complete checkpoint, newest first; a phase's end goes before its last step."""
        found = []
        folders = [(None, self._folder(None))]
        phases = self.directory / "phases"
        if phases.is_dir():
            folders += [(path.name, path) for path in phases.iterdir() if path.is_dir()]
        for phase, folder in folders:
            if folder.is_dir():
                found += [
                    CheckpointInfo(int(path.name), phase, path)
                    for path in folder.iterdir()
                    if path.name.isdigit() and path.is_dir()
                ]

        return sorted(found, key=lambda info: (info.step, info.phase or ""), reverse=True)

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
            self._verify_files(info)
            record = self._read_record(info)
            self._check_layout(info, record, {"trainable": template})
            return self._read(info, {"trainable": abstract(template)})["trainable"]
        except DamagedCheckpoint as error:
            raise ValueError(str(error)) from error

    def close(self) -> None:
        """Completes what is under way, and lets go of Orbax's threads."""
        self.finish()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    # Reading.

    def _load(
        self, info: CheckpointInfo, template: TrainState, iterator: Any
    ) -> tuple[TrainState, dict[str, Any]]:
        self._verify_files(info)
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
            run_record.refuse_conflicts(
                f"The checkpoint {info.path}", run_record.from_values(written), self._config,
                run_record.OF_WEIGHTS if self._read_only else ("",),
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

    # Damage.

    def _manifest(self, info: CheckpointInfo) -> epath.Path:
        parts = info.path.relative_to(self.directory).parts
        return self.directory / "manifests" / ("-".join(parts) + ".json")

    def _write_manifest(self, info: CheckpointInfo) -> None:
        manifest = self._manifest(info)
        integrity.write_manifest(manifest, info.path)
        for other in manifest.parent.glob("steps-*.json"):
            if not (self._folder(None) / other.stem.removeprefix("steps-")).exists():
                other.unlink()  # its checkpoint was one of those no longer kept

    def _verify_files(self, info: CheckpointInfo) -> None:
        problem = None
        if processes.is_primary():
            problem = integrity.damage(self._manifest(info), info.path)
        (problem, *_) = processes.gather(problem)
        if problem is not None:
            raise DamagedCheckpoint(f"The checkpoint {info.path} is damaged: {problem}.")

    def _set_damaged_aside(self) -> None:
        for info in self._damaged:
            if info.path.exists():
                self._set_aside(info)
        self._damaged = []

    def _set_aside(self, info: CheckpointInfo) -> None:
        """Moves a checkpoint out of the way of new ones; nothing is deleted."""
        folder = self.directory / "set_aside"
        name = "-".join(info.path.relative_to(self.directory).parts)
        number = 0
        while (target := folder / f"{name}.{number}").exists():
            number += 1
        if jax.process_index() == 0:
            folder.mkdir(exist_ok=True)
            self._manifest(info).unlink(missing_ok=True)
            info.path.rename(target)
        logging.warning("Moved the checkpoint %s to %s.", info.path, target)
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
            writer = self._writers.pop(info.path.parent)
            with contextlib.suppress(Exception):
                writer.close()
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise SaveFailed(
                f"The checkpoint {info.path} could not be written: {reason}."
            ) from error

    def _folder(self, phase: str | None) -> epath.Path:
        return self.directory / "steps" if phase is None else self.directory / "phases" / phase

    def _writer(self, phase: str | None) -> ocp.training.Checkpointer:
        folder = self._folder(phase)
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

    def _fingerprint_frozen(self, state: TrainState) -> int | None:
        """Frozen weights never change within a run: one look at their bytes is enough."""
        if state.frozen is None:
            return None
        if self._frozen_fingerprint is None:
            self._frozen_fingerprint = integrity.fingerprint(state.frozen)
        return self._frozen_fingerprint
