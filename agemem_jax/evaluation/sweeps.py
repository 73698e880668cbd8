"""What variants of a configuration reached, over several seeds each.

Every run has an evaluation of its own, with intervals over tasks; here the spread that counts is
that between seeds. Intervals are Student's t over the means of the seeds, and variants are
compared seed by seed, since runs of one seed begin alike and are measured on the same tasks.
"""

import csv
import dataclasses
import itertools
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from rich import box
from rich import table as rich_table
from rich.console import Console
from scipy import stats

from agemem_jax.rewards.estimates import Estimate
from agemem_jax.training.monitoring.metrics import read_metrics

# Of these means the table has percentages; all others are numbers.
_PERCENT = {"j": "J", "f1": "F1", "success": "success", "progress": "progress", "mq": "MQ"}

_COLUMNS = 3  # of calls that a terminal has room for


@dataclasses.dataclass(frozen=True)
class Run:
    """One variant trained with one seed.

    Attributes:
      variant: its name.
      seed: of the training.
      workdir: of the run, trained and evaluated.
    """

    variant: str
    seed: int
    workdir: pathlib.Path

    def means(self) -> dict[str, dict[str, float]]:
        """Of each evaluated method, by title, its means by name; calls per tool as `tc/TOOL`."""
        rows = json.loads((self.workdir / "evaluation.json").read_text())["results"]
        return {row["title"]: _means(row) for row in rows}

    def curve(self, metric: str) -> tuple[Float[np.ndarray, " i"], Float[np.ndarray, " i"]]:
        """A metric of the iterations, against the tokens that had been sampled by then."""
        lines = [line for line in read_metrics(self.workdir / "metrics.jsonl") if metric in line]
        sampled = np.cumsum([line["sampled_tokens"] for line in lines])
        return sampled, np.array([line[metric] for line in lines], float)


def _means(row: Mapping[str, Any]) -> dict[str, float]:
    means = {name: v["mean"] for name, v in row.items() if isinstance(v, Mapping) and "mean" in v}
    return means | {f"tc/{tool}": count for tool, count in row["tc"].items()}


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of independent runs and its 95 % interval by Student's t.

    One run alone says nothing about others: its interval is unbounded.
    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Estimate(mean, mean - float(half), mean + float(half))


@dataclasses.dataclass(frozen=True)
class Summary:
    """All runs of a sweep, in the order of variants and seeds."""

    runs: Sequence[Run]

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(run.variant for run in self.runs))

    def values(self) -> dict[tuple[str, str], dict[str, dict[int, float]]]:
        """By variant and method: of each mean the value of every seed."""
        found: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
        for run in self.runs:
            for method, means in run.means().items():
                table = found.setdefault((run.variant, method), {})
                for name, value in means.items():
                    table.setdefault(name, {})[run.seed] = value
        return found

    def estimates(self) -> dict[tuple[str, str], dict[str, Estimate]]:
        """By variant and method: the means over seeds."""
        return {
            key: {name: over_seeds(list(seeds.values())) for name, seeds in table.items()}
            for key, table in self.values().items()
        }

    def differences(self) -> dict[tuple[str, str], dict[str, Estimate]]:
        """By variant and method: what it has more than the first variant, over common seeds."""
        values = self.values()
        base = self.variants[0]
        found = {}
        for (variant, method), table in values.items():
            first = values.get((base, method), {})
            if variant == base or not first:
                continue
            found[variant, method] = {
                name: over_seeds([seeds[s] - first[name][s] for s in seeds if s in first[name]])
                for name, seeds in table.items()
                if name in first and seeds.keys() & first[name].keys()
            }
        return found


def render(summary: Summary, metrics: Sequence[str] = ()) -> list[rich_table.Table]:
    """Means over seeds, and paired differences to the first variant, with 95 % intervals.

    Args:
      summary: of the sweep.
      metrics: names of the columns, in order; none are scores and reward, then the reward's
        components, then calls per tool.
    """
    estimates = summary.estimates()
    known = list(dict.fromkeys(name for table in estimates.values() for name in table))
    groups = [list(metrics)] if metrics else [
        [name for name in known if name in ("j", "success", "mq", "reward")],
        [name for name in known if name.startswith("r_")],
        *itertools.batched((name for name in known if name.startswith("tc/")), _COLUMNS),
    ]  # fmt: skip
    seeds = ", ".join(map(str, sorted({run.seed for run in summary.runs})))
    tables = [_table(f"means over seeds {seeds}", estimates, names) for names in groups if names]
    differences = summary.differences()
    title = f"difference to {summary.variants[0]}, seed by seed"
    tables += [_table(title, differences, names) for names in groups if names and differences]
    return tables


def _table(
    title: str, rows: Mapping[tuple[str, str], Mapping[str, Estimate]], shown: Sequence[str]
) -> rich_table.Table:
    table = rich_table.Table(title=title, box=box.MARKDOWN)
    for name in ("variant", "method"):
        table.add_column(name, no_wrap=True)
    for name in shown:
        table.add_column(_title(name), justify="right", no_wrap=True)
    for (variant, method), columns in rows.items():
        table.add_row(variant, method, *(_cell(name, columns.get(name)) for name in shown))
    return table


def _title(name: str) -> str:
    short = name.removeprefix("tc/").split("_")[0] if name.startswith("tc/") else name
    return _PERCENT.get(name, short)


def _cell(name: str, estimate: Estimate | None) -> str:
    """The mean, and half of the width of its interval, which is symmetric."""
    if estimate is None:
        return ""
    scale, digits = (100, 1) if name in _PERCENT else (1, 2 if name.startswith("tc/") else 3)
    mean = f"{scale * estimate.mean:.{digits}f}"
    half = scale * (estimate.high - estimate.mean)
    return mean if math.isinf(half) else f"{mean} ± {half:.{digits}f}"


def write(folder: str | os.PathLike, summary: Summary) -> None:
    """The values of all seeds in `sweep.json`, estimates in `sweep.csv`, tables in `sweep.md`."""
    folder = pathlib.Path(folder)
    rows = []
    for kind, found in (("mean", summary.estimates()), ("difference", summary.differences())):
        for (variant, method), table in found.items():
            rows += [
                {"kind": kind, "variant": variant, "method": method, "metric": name}
                | {side: _finite(value) for side, value in dataclasses.asdict(estimate).items()}
                for name, estimate in table.items()
            ]
    values = [
        {"variant": variant, "method": method, "values": table}
        for (variant, method), table in summary.values().items()
    ]
    text = json.dumps({"runs": values, "estimates": rows}, indent=2)
    (folder / "sweep.json").write_text(text + "\n")
    with (folder / "sweep.md").open("w") as file:
        console = Console(file=file, width=1000)
        for table in render(summary):
            console.print(f"{table.title}\n", markup=False)
            table.title = None
            console.print(table)
    with (folder / "sweep.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_curves(path: str | os.PathLike, summary: Summary, metric: str) -> None:
    """A picture of a metric over the sampled tokens: mean and range of the seeds, by variant.

    Runs of a variant are compared at the same counts of tokens, by interpolation.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for variant in summary.variants:
        curves = [run.curve(metric) for run in summary.runs if run.variant == variant]
        curves = [(sampled, values) for sampled, values in curves if len(values)]
        if not curves:
            continue
        at = np.linspace(
            max(sampled[0] for sampled, _ in curves), min(sampled[-1] for sampled, _ in curves), 100
        )
        values = np.stack([np.interp(at, *curve) for curve in curves])
        (line,) = axes.plot(at, values.mean(axis=0), label=variant)
        axes.fill_between(
            at, values.min(axis=0), values.max(axis=0), alpha=0.15, color=line.get_color()
        )
    axes.set_xlabel("sampled tokens")
    axes.set_ylabel(f"{metric}, mean over the batch")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
