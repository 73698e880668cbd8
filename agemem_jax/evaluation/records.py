"""What evaluations found, kept by method and settings.

Each method writes a file of its own as it ends, `evaluation/<method>-<settings>.json` in the
work directory; each episode is kept beside it as soon as it ends, as a line of
`<method>-<settings>.episodes.jsonl`; `evaluation.json`, `evaluation.csv` and
`trajectories.md` are made of all that are there. So an evaluation that was interrupted goes on
with what is missing, and one with other methods or settings adds to what was found before.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from agemem_jax.evaluation.metrics import Measures
from agemem_jax.rewards.estimates import Estimate
from agemem_jax.rollout import trajectory_json
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.task import Task

_OLD = "evaluation_of_an_earlier_version.json"


@dataclasses.dataclass(frozen=True)
class Record:
    """What one method did under one set of settings.

    Attributes:
      method: its name.
      title: as it appears in tables.
      settings: what the figures depend on, as JSON values.
      measures: what came out.
      tasks: of every task that did not fail, in order: its `task_id`, and its reward by name.
      trajectories: Markdown of the first few.
      rows: of every task the values that the measures are means of, by name; None where it has
        none. Records of earlier versions have none.
    """

    method: str
    title: str
    settings: Mapping[str, Any]
    measures: Measures
    tasks: Sequence[Mapping[str, Any]] = ()
    trajectories: str = ""
    rows: Sequence[Mapping[str, float | None]] = ()


class Records:
    """The records of one work directory."""

    def __init__(self, workdir: str | os.PathLike):
        self._workdir = pathlib.Path(workdir)
        self._folder = self._workdir / "evaluation"

    def find(self, method: str, settings: Mapping[str, Any]) -> Record | None:
        """What `method` did under `settings`; None where that was not tried, or is unreadable."""
        path = self._path(method, settings)
        return read(path) if path.is_file() else None

    def paths(self, method: str, settings: Mapping[str, Any]) -> dict[str, str]:
        """Where a record, its episodes and the shown ones are, below the work directory."""
        path = self._path(method, settings).relative_to(self._workdir)
        ends = {"record": ".json", "episodes": ".episodes.jsonl", "shown": ".md"}
        return {name: str(path.with_suffix(end)) for name, end in ends.items()}

    def write(self, record: Record) -> None:
        """Keeps a record, whole or not at all, in place of one of the same settings."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(record.method, record.settings)
        _replace(path.with_suffix(".md"), record.trajectories)
        values = dataclasses.asdict(record)
        del values["trajectories"]
        _replace(path, json.dumps(values, indent=2) + "\n")

    def all(self) -> list[Record]:
        """Every record, those of one set of settings together, oldest first."""
        paths = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        records = [record for path in paths if (record := read(path)) is not None]
        order: dict[str, int] = {}
        for record in records:
            order.setdefault(_digest(_shared(record.settings)), len(order))
        return sorted(records, key=lambda record: order[_digest(_shared(record.settings))])

    def episodes(self, method: str, settings: Mapping[str, Any]) -> "Episodes":
        """The episodes of `method` under `settings`, those that were played already included."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return Episodes(self._path(method, settings).with_suffix(".episodes.jsonl"))

    def set_old_results_aside(self) -> None:
        """Results of an earlier version, which kept no records, would be written over."""
        path = self._workdir / "evaluation.json"
        if path.is_file() and not self._folder.exists():
            path.rename(self._workdir / _OLD)

    def _path(self, method: str, settings: Mapping[str, Any]) -> pathlib.Path:
        return self._folder / f"{method}-{_digest(settings)}.json"


class Episodes:
    """The trajectories of one method under one set of settings, a line for each."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def forget(self) -> None:
        """All are to be played anew."""
        self._path.unlink(missing_ok=True)

    def known(self, tasks: Sequence[Task]) -> dict[int, Trajectory]:
        """What was played already, by the place of the task; failed ones are played again."""
        found = {}
        lines = self._path.read_text().split("\n") if self._path.is_file() else []
        for line in lines:
            try:
                index, trajectory = trajectory_json.from_line(line, dict(enumerate(tasks)))
            except (ValueError, KeyError, TypeError):
                continue  # cut off, or of an earlier version
            if trajectory.fault is None:
                found[index] = trajectory
        return found

    def add(self, index: int, trajectory: Trajectory) -> None:
        """Keeps an episode that has ended, behind whatever a crash has left of a line."""
        with self._path.open("ab+") as file:
            file.seek(max(0, file.tell() - 1))
            ended = file.read(1) in (b"", b"\n")
            line = trajectory_json.to_line(index, trajectory) + "\n"
            file.write(("" if ended else "\n").encode() + line.encode())


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What methods of one table have in common: all but the weights."""
    return {name: value for name, value in settings.items() if name != "weights"}


def _digest(settings: Mapping[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def read(path: os.PathLike) -> Record | None:
    """The record in a file; None where there is none, or it is unreadable."""
    path = epath.Path(path)
    return _read(path) if path.is_file() else None


def _read(path: epath.Path) -> Record | None:
    try:
        values = json.loads(path.read_text())
        values["measures"] = _measures(values["measures"])
        values["rows"] = tuple(values.get("rows", ()))
        shown = path.with_suffix(".md")
        text = shown.read_text() if shown.is_file() else ""
        return Record(**values, trajectories=text)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _measures(values: Mapping[str, Any]) -> Measures:
    values = dict(values)
    if "estimates" not in values:  # an earlier version had a field for each
        values["estimates"] = {name: values.pop(name) for name in _EARLIER if name in values}
    estimates = _estimates(values.pop("estimates"))
    categories = {name: _estimates(each) for name, each in values.pop("categories", {}).items()}
    timing = _estimates(values.pop("timing", {}))
    return Measures(estimates=estimates, categories=categories, timing=timing, **values)


_EARLIER = ("j", "mq", "r_memory", "reward", "tn")


def _estimates(values: Mapping[str, Any]) -> dict[str, Estimate]:
    return {name: Estimate(**value) for name, value in values.items()}


def _replace(path: pathlib.Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text)
    unfinished.replace(path)
