"""What was stored for a plan: the records of its evaluations, as cells of tables.

A cell is a mean over seeds with its interval, and knows the records that it was made of and the
trajectories behind them.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from agemem_jax.evaluation import records
from agemem_jax.evaluation.metrics import Measures
from agemem_jax.evaluation.paper.plan import EVALUATE, Plan
from agemem_jax.evaluation.records import Record
from agemem_jax.evaluation.sweeps import over_seeds
from agemem_jax.methods.registry import find_method
from agemem_jax.plugins.registry import split
from agemem_jax.rewards.estimates import Estimate, bootstrap

_COLUMNS = {
    "alfworld": "ALFWorld", "scienceworld": "SciWorld", "pddl": "PDDL", "babyai": "BabyAI",
    "hotpotqa": "HotpotQA", "locomo": "LoCoMo",
}  # fmt: skip
_PROGRESS = ("pddl",)  # of these the paper gives the progress rate, of other environments success
PERCENT = ("main", "j", "f1", "success", "progress", "grounding", "mq")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one method did on one benchmark with one seed.

    Attributes:
      seed: of the run.
      record: of the evaluation.
      paths: of the record, the episodes and the shown ones, as links to be written.
      episodes: file of the episodes.
    """

    seed: int
    record: Record
    paths: Mapping[str, str]
    episodes: pathlib.Path

    def estimate(self, metric: str) -> Estimate | None:
        """A mean over tasks; "main" is what the benchmark's column has, "tc" all tool calls."""
        measures = self.record.measures
        if metric == "tc":
            names = [f"tc_{tool}" for tool in measures.tc]
            rows = [sum(row.get(name) or 0 for name in names) for row in self.record.rows]
            return bootstrap(rows) if rows else self._calls
        every = measures.estimates | measures.timing
        return every.get(self.main if metric == "main" else metric)

    def mean(self, metric: str) -> float | None:
        """That of `estimate`, without the interval, which takes longer."""
        found = self._calls if metric == "tc" else self.estimate(metric)
        return None if found is None else found.mean

    @property
    def _calls(self) -> Estimate:
        return Estimate(sum(self.record.measures.tc.values()), -math.inf, math.inf)

    @property
    def main(self) -> str:
        """The name of the benchmark's own measure."""
        if self.record.settings["tasks"]["name"] in _PROGRESS:
            return "progress"
        return "j" if "j" in self.record.measures.estimates else "success"

    def values(self, metric: str = "main") -> dict[str, float] | None:
        """A metric of every task by its id; None where the record does not have them."""
        name = self.main if metric == "main" else metric
        tasks = [each.get("task_id") for each in self.record.tasks]
        if not self.record.rows or len(set(tasks)) < len(tasks):
            return None
        pairs = zip(tasks, self.record.rows, strict=True)
        return {task: row[name] for task, row in pairs if row.get(name) is not None}

    @property
    def measures(self) -> Measures:
        return self.record.measures


@dataclasses.dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Attributes:
      metric: what it is the mean of.
      estimate: over seeds by Student's t or, with one seed, that seed's own over tasks; None where
        nothing is stored.
      seeds: the mean of each seed.
      tasks: that each of these is over, all benchmarks together.
      sources: of every seed and benchmark the paths of what it was made of.
      best: whether no other of its column is better.
    """

    metric: str
    estimate: Estimate | None = None
    seeds: Mapping[int, float] = dataclasses.field(default_factory=dict)
    tasks: int = 0
    sources: Sequence[Mapping[str, str | int]] = ()
    best: bool = False

    @classmethod
    def of(cls, measured: Sequence[Measured], metric: str) -> "Cell":
        """The mean over seeds of one benchmark."""
        means = {m.seed: mean for m in measured if (mean := m.mean(metric)) is not None}
        if not means:
            return cls(metric)
        known = [each for each in measured if each.seed in means]
        return cls(
            metric,
            over_seeds(list(means.values())) if len(means) > 1 else known[0].estimate(metric),
            means,
            max(each.measures.tasks for each in known),
            [{"seed": each.seed, **each.paths} for each in known],
        )

    @classmethod
    def average(cls, columns: Sequence[Sequence[Measured]], metric: str) -> "Cell":
        """The mean over benchmarks, over the seeds that all of them have."""
        cells = [cls.of(measured, metric) for measured in columns]
        common = [s for s in (cells[0].seeds if cells else ()) if all(s in c.seeds for c in cells)]
        if not common:
            return cls(metric)
        means = {seed: float(np.mean([cell.seeds[seed] for cell in cells])) for seed in common}
        if len(means) > 1:
            estimate = over_seeds(list(means.values()))
        else:
            estimate = _resampled([m for c in columns for m in c if m.seed == common[0]], metric)
        sources = [each for cell in cells for each in cell.sources if each["seed"] in common]
        return cls(metric, estimate, means, sum(cell.tasks for cell in cells), sources)


def _resampled(measured: Sequence[Measured], metric: str, samples: int = 10_000) -> Estimate:
    """The mean over benchmarks of one seed: the tasks of each are resampled by themselves."""
    rng, drawn = np.random.default_rng(0), np.zeros(samples)
    mean = float(np.mean([each.estimate(metric).mean for each in measured]))
    for each in measured:
        values = np.array(list((each.values(metric) or {}).values()))
        if not len(values):
            return Estimate(mean, -math.inf, math.inf)
        for start in range(0, samples, 1000):  # all at once would be gigabytes for a data set
            chosen = rng.integers(len(values), size=(1000, len(values)))
            drawn[start : start + 1000] += values[chosen].mean(axis=1) / len(measured)
    return Estimate(mean, *map(float, np.percentile(drawn, [2.5, 97.5])))


class Results:
    """The stored records of one plan."""

    def __init__(self, plan: Plan, seen_from: pathlib.Path | None = None):
        """Args:
        plan: whose records are read.
        seen_from: folder that paths are written relative to; default: the plan's.
        """
        self.plan = plan
        self._seen_from = seen_from or plan.workdir
        self._indices: dict[pathlib.Path, dict[tuple[str, str], Mapping[str, str]]] = {}
        self._records: dict[pathlib.Path, Record | None] = {}

    def find(
        self, method: str, benchmark: str, variant: str = "agemem", of: str = ""
    ) -> list[Measured]:
        """One per seed for which there is a record."""
        step = f"{EVALUATE}-{of}" if of else EVALUATE
        found = []
        for seed in self.plan.seeds:
            folder = self.plan.folder(variant, seed)
            paths = self._index(folder / f"{step}.index.json").get((benchmark, method))
            record = None if paths is None else self._record(folder / paths["record"])
            if record is not None:
                shown = {
                    name: os.path.relpath(folder / path, self._seen_from)
                    for name, path in paths.items()
                }
                found.append(Measured(seed, record, shown, folder / paths["episodes"]))
        return found

    def title(self, method: str) -> str:
        return find_method(method).title

    def _index(self, path: pathlib.Path) -> dict[tuple[str, str], Mapping[str, str]]:
        if path not in self._indices:
            rows = json.loads(path.read_text())["records"] if path.is_file() else []
            self._indices[path] = {(row.pop("task_source"), row.pop("method")): row for row in rows}
        return self._indices[path]

    def _record(self, path: pathlib.Path) -> Record | None:
        if path not in self._records:
            self._records[path] = records.read(path)
        return self._records[path]


def column(benchmark: str) -> str:
    """How tables head a benchmark, given as --task_source."""
    name, _ = split(benchmark)
    return _COLUMNS.get(name, name)


def columns(benchmarks: Sequence[str]) -> list[str]:
    """How tables head benchmarks; those of one source are told apart by their options."""
    heads = [column(each) for each in benchmarks]
    return [
        head if heads.count(head) == 1 else f"{head} {each.partition('(')[2].rstrip(')')}".strip()
        for head, each in zip(heads, benchmarks, strict=True)
    ]
