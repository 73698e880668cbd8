"""What a work directory holds that a report shows: metrics, records, trajectories.

A directory may be that of a training run, of an evaluation, or of both; it may be one in which
something is being written now. Lines that cannot be read are counted and left out.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from agemem_jax.evaluation import records
from agemem_jax.evaluation.records import Record
from agemem_jax.rollout import trajectory_json
from agemem_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class Played:
    """One trajectory with what is known of it besides.

    Attributes:
      trajectory: without segments, and with as much of its task as its record says.
      source: a title of what it was played for: a method, or a step of training.
      record: the file that it came from, without its ending: "agemem-27f9b4c8f9c9", "samples/5".
      index: its place there.
      group: those with the same one were played on the same task, to be compared.
      reward: by name, "total" first; None where none was given yet.
      components: names of the reward's components; what else is in it are parts of those.
      advantages: one for each step; None where it was not trained on.
      step: of training, for a sample.
    """

    trajectory: Trajectory
    source: str
    record: str
    index: int
    group: str
    reward: Mapping[str, float] | None = None
    components: Sequence[str] = ()
    advantages: Sequence[float] | None = None
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class Contents:
    """Everything that a report is made of.

    Attributes:
      title: the name of the directory.
      config: of the training run, as it was written down; empty where there is none.
      metrics: lines of `metrics.jsonl`.
      records: results of evaluations by the file they are in, without its ending.
      played: trajectories, those of evaluations first.
      unreadable: lines that hold no trajectory.
    """

    title: str
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    records: Mapping[str, Record]
    played: Sequence[Played]
    unreadable: int = 0


def read(workdir: str | os.PathLike) -> Contents:
    """Reads a work directory.

    Raises:
      ValueError: nothing of a run or an evaluation is there.
    """
    folder = epath.Path(workdir)
    config = next(iter(_lines(folder / "config.json", whole=True)), None) or {}
    metrics = [line for line in _lines(folder / "metrics.jsonl") if line is not None]
    found = _records(folder / "evaluation")
    titles = source_titles(found)
    components = list((config.get("rewards") or {}).get("components") or ())
    stored = [
        *_evaluated(folder / "evaluation", found, titles),
        *_sampled(folder / "samples", components),
    ]
    if not (metrics or found or stored):
        raise ValueError(
            f"{folder} holds no metrics.jsonl, samples or evaluation; --workdir must name the "
            "directory of a training run or of an evaluation."
        )
    return Contents(
        title=folder.name or os.fspath(folder),
        config=config,
        metrics=metrics,
        records=found,
        played=[each for each in stored if each is not None],
        unreadable=stored.count(None),
    )


def source_titles(found: Mapping[str, Record]) -> dict[str, str]:
    """A title for each record: of its method, and by what it differs from others of the method."""
    told = {name: flat(record.settings) for name, record in found.items()}
    titles = {}
    for name, record in found.items():
        alike = [told[n] for n, other in found.items() if other.title == record.title]
        differing = {
            key: value
            for key, value in told[name].items()
            if key.split(".")[-1] not in _OPAQUE and len({str(each.get(key)) for each in alike}) > 1
        }
        if "tasks.name" in differing:  # says it all of the tasks
            others = {key: v for key, v in differing.items() if not key.startswith("tasks.")}
            differing = {"tasks.name": differing["tasks.name"], **others}
        words = [
            str(value) if key == "tasks.name" else f"{key.split('.')[-1]} {value}"
            for key, value in differing.items()
        ]
        titles[name] = ", ".join([record.title, *words])
    return titles


def by_tasks(found: Mapping[str, Record]) -> dict[str, dict[str, Record]]:
    """The records of each set of tasks, by what is said of it: those that are compared."""
    groups: dict[str, dict[str, Record]] = {}
    for name, record in found.items():
        tasks = record.settings.get("tasks", {})
        told = f"{tasks.get('name', 'tasks')} {tasks.get('split', '')}".strip()
        judge = record.settings.get("judge", "offline")
        groups.setdefault(f"{told}, J by {judge}", {})[name] = record
    return groups


_OPAQUE = ("digest", "content", "configuration")  # fingerprints, which tell a reader nothing


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, with dots in the names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _records(folder: epath.Path) -> dict[str, Record]:
    paths = sorted(folder.glob("*.json")) if folder.exists() else []
    known = {path.stem: records.read(path) for path in paths}
    return {name: record for name, record in known.items() if record is not None}


def _evaluated(
    folder: epath.Path, found: Mapping[str, Record], titles: Mapping[str, str]
) -> Iterator[Played | None]:
    """Trajectories of evaluations, also of those that have not ended; None for a bad line."""
    order = {name: place for place, name in enumerate(found)}
    paths = folder.glob("*.episodes.jsonl") if folder.exists() else []
    named = {path.name.removesuffix(".episodes.jsonl"): path for path in paths}
    for name in sorted(named, key=lambda name: (order.get(name, len(order)), name)):
        record, played = found.get(name), {}
        for line in _lines(named[name]):
            trajectory = _trajectory(line)
            if trajectory is None:
                yield None
            else:  # one that was played again takes the place of the one that failed
                played[line.get("index", len(played))] = trajectory
        title = titles.get(name, f"{name.rsplit('-', 1)[0]}, under way")
        intact = [index for index, each in sorted(played.items()) if each.fault is None]
        # The rewards are those of the episodes that did not fail, in order.
        rewards = record.tasks if record is not None and len(record.tasks) == len(intact) else ()
        estimates = record.measures.estimates if record is not None else {}
        # Earlier versions had no estimate of the first.
        components = list(dict.fromkeys(["task", *(n[2:] for n in estimates if n[:2] == "r_")]))
        given = dict(zip(intact, rewards, strict=False))
        tasks = record.settings.get("tasks", {}).get("name", "") if record is not None else name
        for index, trajectory in sorted(played.items()):
            group = f"{tasks}/{trajectory.task.task_id}"
            reward = _numbers(given.get(index))
            yield Played(trajectory, title, name, index, group, reward, components)


def _sampled(folder: epath.Path, components: Sequence[str]) -> Iterator[Played | None]:
    """Trajectories of training, oldest first; None for a bad line."""
    paths = [each for each in folder.glob("*.jsonl")] if folder.exists() else []
    for path in sorted((p for p in paths if p.stem.isdigit()), key=lambda p: int(p.stem)):
        for line in _lines(path):
            trajectory = _trajectory(line)
            if trajectory is None:
                yield None
                continue
            group = line.get("group", trajectory.task.task_id)  # absent in earlier versions
            yield Played(
                trajectory, f"training, step {path.stem}", f"samples/{path.stem}",
                line.get("index", 0), f"step {path.stem}, group {group}",
                _numbers(line.get("reward")), components, _advantages(line, trajectory),
                int(path.stem),
            )  # fmt: skip


def _lines(path: epath.Path, whole: bool = False) -> list[dict[str, Any] | None]:
    """The JSON objects of a file, a line each or the `whole` of it; None for what is none."""
    if not path.exists():
        return []
    text = path.read_text()
    return [_object(line) for line in ([text] if whole else text.split("\n")) if line.strip()]


def _object(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _trajectory(line: Mapping[str, Any] | None) -> Trajectory | None:
    try:
        return None if line is None else trajectory_json.read_alone(line)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # cut off, or of another version


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float] | None:
    """The rewards of a task; what else stands beside them is no number."""
    if values is None:
        return None
    numbers = {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    total = {"total": numbers["total"]} if "total" in numbers else {}
    return total | numbers


def _advantages(line: Mapping[str, Any], trajectory: Trajectory) -> list[float] | None:
    values = line.get("advantage")
    if values is None:
        return None
    if isinstance(values, int | float):  # of an earlier version, which had one for all steps
        return [float(values)] * trajectory.num_steps
    return [float(value) for value in values]
