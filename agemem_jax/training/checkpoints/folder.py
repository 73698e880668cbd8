"""The folder of a run's checkpoints: which there are, whether they are intact, what is left out.

Nothing here reads what is in a checkpoint. Those inside a phase live under `steps/`, the end of
every phase under `phases/<name>/`, and under `best/` the weights that did best, with `best.json`
beside them. `manifests/` holds a checksum of every file, so that damage is noticed before it is
trained on.
"""

import json
import os
from typing import Any

import jax
from absl import logging
from etils import epath

from agemem_jax.parallel import processes
from agemem_jax.training.checkpoints import integrity
from agemem_jax.training.checkpoints.parts import JSON_FILE, CheckpointInfo, DamagedCheckpoint


class CheckpointFolder:
    """What stands in one folder of checkpoints, which need not exist yet.

    Attributes:
      path: of the folder.
    """

    def __init__(self, directory: str | os.PathLike):
        self.path = epath.Path(directory)
        if "://" not in os.fspath(directory):  # Orbax wants the whole path
            self.path = self.path.absolute()

    def inside(self, phase: str | None) -> epath.Path:
        """Where the checkpoints that close `phase` are; of None, those inside phases."""
        return self.path / "steps" if phase is None else self.path / "phases" / phase

    def all(self) -> list[CheckpointInfo]:
        """Every complete checkpoint that a run can go on from.

        Newest first; a phase's end goes before its last step.
        """
        found = []
        folders = [(None, self.inside(None))]
        phases = self.path / "phases"
        if phases.is_dir():
            folders += [(path.name, path) for path in phases.iterdir() if path.is_dir()]
        for phase, folder in folders:
            found += [CheckpointInfo(int(path.name), phase, path) for path in _numbered(folder)]
        return sorted(found, key=lambda info: (info.step, info.phase or ""), reverse=True)

    def find(self, name: str) -> CheckpointInfo:
        """A checkpoint by what a person calls it.

        Args:
          name: "last", "best", a step, the name of a phase that has ended, or what
            `CheckpointInfo.name` gives, such as "joint/30".

        Raises:
          ValueError: there is none, in a sentence that lists what there is.
        """
        every, best = self.all(), self.best()
        if name == "last" and every:
            return every[0]
        known = [*every, *([] if best is None else [best])]
        for info in known:
            if name in (info.name, info.phase, "best" if info is best else str(info.step)):
                return info
        raise ValueError(
            f"There is no checkpoint {name!r} in {self.path}; there "
            + (f"are {self._listed(every, best)}." if every or best else "is none yet.")
        )

    def _listed(self, every: list[CheckpointInfo], best: CheckpointInfo | None) -> str:
        names = ["last"] if every else []
        names += [] if best is None else [f"best (step {best.step})"]
        names += [f"{info.phase} (step {info.step})" for info in every[::-1] if info.phase]
        steps = sorted({info.step for info in every})
        names += [f"the steps {', '.join(map(str, steps))}"] if steps else []
        return ", ".join(names)

    # The best.

    def best(self) -> CheckpointInfo | None:
        """The one that `best.json` tells of; None where none was kept."""
        step = self.read_best().get("step")
        path = self.path / "best" / str(step)
        return CheckpointInfo(step, None, path) if step is not None and path.is_dir() else None

    def read_best(self) -> dict[str, Any]:
        """What is told of the best one: its step, and what it was chosen by; or nothing."""
        path = self.path / "best" / "best.json"
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except ValueError:  # cut off
            return {}

    def read_position(self, info: CheckpointInfo) -> dict[str, Any]:
        """What a checkpoint tells of where the run stood; nothing where that cannot be read.

        One process of a job can ask alone, as it cannot where Orbax reads.
        """
        try:
            record = json.loads((info.path / "record" / JSON_FILE).read_text())
            return dict(record["position"])
        except (OSError, ValueError, KeyError, TypeError):  # damaged
            return {}

    def tell_best(self, values: dict[str, Any] | None) -> None:
        """Writes what is told of the best one from now on; None takes it back."""
        path = self.path / "best" / "best.json"
        if values is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(values, indent=2) + "\n")
        unfinished.replace(path)

    def forget_best_but(self, steps: set[int]) -> None:
        """Removes what was the best once, but those of these steps."""
        for path in _numbered(self.path / "best"):
            if int(path.name) not in steps:
                self._manifest(CheckpointInfo(int(path.name), None, path)).unlink(missing_ok=True)
                path.rmtree()

    # Damage.

    def _manifest(self, info: CheckpointInfo) -> epath.Path:
        parts = info.path.relative_to(self.path).parts
        return self.path / "manifests" / ("-".join(parts) + ".json")

    def write_manifest(self, info: CheckpointInfo) -> None:
        """Remembers what the files of a complete checkpoint hold."""
        manifest = self._manifest(info)
        integrity.write_manifest(manifest, info.path)
        for other in manifest.parent.glob("steps-*.json"):
            if not (self.inside(None) / other.stem.removeprefix("steps-")).exists():
                other.unlink()  # its checkpoint was one of those no longer kept

    def verify_files(self, info: CheckpointInfo) -> None:
        """Compares files with what was remembered; all processes must call this.

        Raises:
          DamagedCheckpoint: in every process.
        """
        problem = None
        if processes.is_primary():
            problem = integrity.damage(self._manifest(info), info.path)
        (problem, *_) = processes.gather(problem)
        if problem is not None:
            raise DamagedCheckpoint(f"The checkpoint {info.path} is damaged: {problem}.")

    def set_aside(self, info: CheckpointInfo) -> None:
        """Moves a checkpoint out of the way of new ones; nothing is deleted."""
        folder = self.path / "set_aside"
        name = "-".join(info.path.relative_to(self.path).parts)
        number = 0
        while (target := folder / f"{name}.{number}").exists():
            number += 1
        if jax.process_index() == 0:
            folder.mkdir(exist_ok=True)
            self._manifest(info).unlink(missing_ok=True)
            info.path.rename(target)
        logging.warning("Moved the checkpoint %s to %s.", info.path, target)


def _numbered(folder: epath.Path) -> list[epath.Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()]
