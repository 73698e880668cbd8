"""The figures of the paper, drawn of the tables behind them, as SVG and PNG.

Two drawings of one table are the same to the byte: files hold no date and no random name.
"""

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np

from agemem_jax.evaluation.paper import studies
from agemem_jax.evaluation.paper.pareto import front
from agemem_jax.evaluation.paper.results import PERCENT, Cell, Results
from agemem_jax.evaluation.paper.tables import Table
from agemem_jax.training.monitoring.metrics import read_metrics

# Distinguishable with colour blindness (Okabe and Ito, 2008).
_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442",
    "#332288", "#882255", "#117733", "#44AA99",
)  # fmt: skip
_STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "svg.hashsalt": "agemem", "svg.fonttype": "none", "figure.dpi": 100,
}  # fmt: skip


@contextlib.contextmanager
def _figure(path: pathlib.Path, columns: int = 1, rows: int = 1, width: float = 4.2) -> Iterator:
    """Axes of a figure that is written as `path` with the ends .svg and .png."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_STYLE):
        size = (max(6.0, width * columns), 3.6 * rows)
        figure, axes = pyplot.subplots(
            rows, columns, figsize=size, layout="constrained", squeeze=False
        )
        yield axes
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=150)
        pyplot.close(figure)


def _point(cell: Any) -> tuple[float, tuple[float, float]] | None:
    """A mean and how far its interval reaches below and above; scaled as tables show it."""
    if not isinstance(cell, Cell) or cell.estimate is None:
        return None
    scale, e = (100 if cell.metric in PERCENT else 1), cell.estimate
    reach = (e.mean - e.low, e.high - e.mean) if math.isfinite(e.low) else (0.0, 0.0)
    return scale * e.mean, (scale * max(0.0, reach[0]), scale * max(0.0, reach[1]))


def _label(table: Table, row: Sequence[Any]) -> str:
    """What tells the rows apart: the backbone only where there are several."""
    several = len({each[0] for each in table.rows}) > 1
    return " ".join(each for each in row[0 if several else 1 : table.labels])


def _bars(path: pathlib.Path, table: Table, heads: Sequence[str], unit: str) -> None:
    """One panel per column, one bar per row; columns without any figure are left out."""
    places = [
        place
        for place, head in enumerate(table.head)
        if head in heads and any(_point(row[place]) for row in table.rows)
    ]
    labels = [_label(table, row) for row in table.rows]
    with _figure(path, max(1, len(places)), width=0.9 + 0.45 * len(labels)) as axes:
        for axis, place in zip(axes[0], places, strict=False):
            _draw_bars(axis, labels, [_point(row[place]) for row in table.rows])
            axis.set_title(table.head[place])
        axes[0][0].set_ylabel(unit)


def _draw_bars(axis: Any, labels: Sequence[str], points: Sequence[Any]) -> None:
    for number, point in enumerate(points):
        if point is None:
            continue
        mean, (low, high) = point
        colour = _COLOURS[number % len(_COLOURS)]
        axis.bar(number, mean, 0.7, color=colour)
        if low or high:
            axis.errorbar(number, mean, [[low], [high]], color="#222222", capsize=3, linewidth=1)
        top = mean + high
        axis.annotate(
            f"{mean:.1f}", (number, top), (0, 2), textcoords="offset points", ha="center",
            fontsize=8,
        )  # fmt: skip
    axis.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor")
    axis.margins(y=0.12)
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", alpha=0.3)


def figure2(path: pathlib.Path, table: Table, every: Sequence[Results]) -> None:
    """Memory quality."""
    _bars(path, table, table.head[table.labels :], "MQ, %")


def figure3(path: pathlib.Path, table: Table, every: Sequence[Results]) -> None:
    """Prompt tokens."""
    _bars(path, table, table.head[table.labels :], "TN, tokens of a prompt")


def figure4(path: pathlib.Path, table: Table, every: Sequence[Results]) -> None:
    """What each part adds."""
    _bars(path, table, table.head[table.labels :], "J or success, %")


def figure5(path: pathlib.Path, table: Table, every: Sequence[Results]) -> None:
    """R_task over the iterations, by reward: means, and the range of the seeds."""
    ways = {"all returns": studies.MAIN, "answer only": studies.ANSWER_ONLY}
    _curves(path, every, ways, "reward_task", "R_task, mean over the batch")


def summaries(path: pathlib.Path, table: Table, every: Sequence[Results]) -> None:
    """R_task over the iterations, with summaries trained and not."""
    ways = {"summaries trained": studies.MAIN, "untrained": studies.UNTRAINED_SUMMARIES}
    _curves(path, every, ways, "reward_task", "R_task, mean over the batch")


def _legend_beside(axes: Any) -> None:
    """A legend to the right of the last panel, where it hides nothing."""
    axis = axes[0][-1]
    if axis.get_legend_handles_labels()[1]:
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _curves(path: pathlib.Path, every: Sequence[Results], ways, metric: str, label: str) -> None:
    with _figure(path, len(every)) as axes:
        for axis, results in zip(axes[0], every, strict=True):
            for number, (title, variant) in enumerate(ways.items()):
                curves = _training(results, variant, metric)
                _curve(axis, curves, title, number, "-" if number == 0 else "--")
            axis.set_title(results.plan.backbone)
            axis.set_xlabel("GRPO iteration")
            axis.grid(alpha=0.3)
            if axis.lines:
                axis.legend(frameon=False)
        axes[0][0].set_ylabel(label)


def _training(results: Results, variant: str, metric: str) -> list[np.ndarray]:
    """A metric of the iterations, by seed; only those that have all iterations before."""
    found = []
    for seed in results.plan.seeds:
        path = results.plan.folder(variant, seed) / "metrics.jsonl"
        lines = read_metrics(path) if path.is_file() else []
        values = [line[metric] for line in lines if line.get(metric) is not None]
        found += [np.array(values, float)] if values else []
    return found


def _curve(
    axis: Any, seeds: Sequence[np.ndarray], title: str, number: int, style: str = "-"
) -> None:
    if not seeds:
        return
    length = min(len(each) for each in seeds)
    values, at = np.stack([each[:length] for each in seeds]), np.arange(1, length + 1)
    colour = _COLOURS[number]
    marker = "o" if length < 6 else None
    axis.plot(at, values.mean(axis=0), style, label=title, color=colour, marker=marker)
    if len(values) > 1:
        axis.fill_between(at, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15)
    axis.xaxis.get_major_locator().set_params(integer=True)


def table3(path: pathlib.Path, table: Table, every: Sequence[Results]) -> None:
    """Calls of each tool over the iterations of the training."""
    with _figure(path, len(every)) as axes:
        for axis, results in zip(axes[0], every, strict=True):
            tools = dict.fromkeys(row[2] for row in table.rows if row[2] != "all calls")
            for number, tool in enumerate(tools):
                curves = _training(results, studies.MAIN, f"tc/{tool}")
                _curve(axis, curves, tool, number % len(_COLOURS))
            axis.set_title(results.plan.backbone)
            axis.set_xlabel("GRPO iteration")
            axis.grid(alpha=0.3)
        _legend_beside(axes)
        axes[0][0].set_ylabel("calls in a trajectory")


def theta(path: pathlib.Path, table: Table, every: Sequence[Results]) -> None:
    """Scores over the threshold."""
    _lines(path, table, "θ", table.head[table.labels :])


def distractors(path: pathlib.Path, table: Table, every: Sequence[Results]) -> None:
    """Scores over the number of distractors."""
    _lines(path, table, "distractors", table.head[table.labels :])


def _lines(path: pathlib.Path, table: Table, over: str, heads: Sequence[str]) -> None:
    """A panel per benchmark and column; a line for the rows that differ in `over` alone."""
    at = list(table.head).index(over)
    by = list(table.head).index("benchmark") if "benchmark" in table.head else None
    several = len({row[0] for row in table.rows}) > 1
    panels: dict[str, dict[str, list[Sequence[Any]]]] = {}
    for row in table.rows:
        rest = [row[i] for i in range(0 if several else 1, table.labels) if i not in (at, by)]
        lines = panels.setdefault("" if by is None else row[by], {})
        lines.setdefault(" ".join(rest), []).append(row)
    with _figure(path, len(heads), max(1, len(panels)), width=3.4) as axes:
        for axis_row, (title, lines) in zip(axes, panels.items(), strict=False):
            for axis, head in zip(axis_row, heads, strict=True):
                place = list(table.head).index(head)
                for number, (label, rows) in enumerate(lines.items()):
                    _line(axis, [(row[at], row[place]) for row in rows], label, number)
                axis.set_title(" ".join(filter(None, (title, head))))
                axis.grid(alpha=0.3)
            if len(lines) > 1 and axis_row[0].has_data():
                axis_row[0].legend(frameon=False, fontsize=8)
        for axis in axes[-1]:
            axis.set_xlabel(over)


def _line(axis: Any, found: Sequence[tuple[str, Any]], label: str, number: int) -> None:
    points = [(float(x), point) for x, cell in found if (point := _point(cell))]
    if points:
        x, mean = [x for x, _ in points], [mean for _, (mean, _) in points]
        reach = np.array([reach for _, (_, reach) in points]).T
        axis.errorbar(
            x, mean, reach, marker="o", color=_COLOURS[number % len(_COLOURS)],
            label=label or None, capsize=3,
        )  # fmt: skip
        axis.set_xticks(x, [each for each, cell in found if _point(cell)])


def pareto(path: pathlib.Path, table: Table, every: Sequence[Results]) -> None:
    """Quality over each cost; a line joins the methods that no other beats in both."""
    places = range(table.labels + 1, len(table.head))
    labels = [_label(table, row) for row in table.rows]
    with _figure(path, len(places), width=4.6) as axes:
        for axis, place in zip(axes[0], places, strict=True):
            found = [(_point(row[place]), _point(row[table.labels])) for row in table.rows]
            known = [n for n, (x, y) in enumerate(found) if x and y]
            for n in known:
                (x, x_reach), (y, y_reach) = found[n]
                axis.errorbar(
                    x, y, [[y_reach[0]], [y_reach[1]]], [[x_reach[0]], [x_reach[1]]], fmt="o",
                    color=_COLOURS[n % len(_COLOURS)], capsize=2, elinewidth=0.8, label=labels[n],
                )  # fmt: skip
            best = front([(found[n][0][0], found[n][1][0]) for n in known])
            line = sorted((found[known[n]][0][0], found[known[n]][1][0]) for n in best)
            if line:
                axis.plot(*zip(*line, strict=True), color="#888888", linewidth=1, zorder=0)
            axis.set_xlabel(f"{table.head[place]} per episode")
            axis.grid(alpha=0.3)
            axis.set_xlim(left=0)
            top = max(1.0, axis.get_ylim()[1])
            axis.set_ylim(-0.04 * top, top)  # no share is below 0, though intervals may reach there
        axes[0][0].set_ylabel("average, %")
        _legend_beside(axes)


DRAW: dict[str, Callable[[pathlib.Path, Table, Sequence[Results]], None]] = {
    "figure2": figure2, "figure3": figure3, "figure4": figure4, "figure5": figure5,
    "table3": table3, "costs": pareto, "timing": pareto, "summaries": summaries, "theta": theta,
    "distractors": distractors,
}  # fmt: skip
