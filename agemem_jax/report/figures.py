"""Training curves and the figures of an evaluation, by matplotlib, as SVG and PNG.

The SVG is for a page that may be dark: what is black in it becomes the colour of the text around.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agemem_jax.evaluation.records import Record
from agemem_jax.report import contents

if TYPE_CHECKING:  # it takes half a second to import, and most programs draw nothing
    from matplotlib.axes import Axes

_INK = "#010203"  # stands for the colour of the page's text until the SVG is written
# Okabe and Ito's colours, which people with any colour vision can tell apart; the yellow aside.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "agemem", "font.family": "sans-serif",
    "font.size": 9, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "axes.titlesize": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "grid.color": _INK,
    "legend.frameon": False, "legend.fontsize": 8, "lines.linewidth": 1.4,
}  # fmt: skip
Draw = Callable[["Axes"], None]


@dataclasses.dataclass(frozen=True)
class Figure:
    """One picture.

    Attributes:
      name: of its file.
      title: what it shows.
      panels: what draws each, side by side.
      height: of a panel, in inches.
    """

    name: str
    title: str
    panels: Sequence[Draw]
    height: float = 3.0

    def draw(self) -> "Drawn":
        """Draws it; laid out once for both forms, which is most of the work."""
        import matplotlib
        from matplotlib.figure import Figure as Canvas

        cycle = {"axes.prop_cycle": matplotlib.cycler(color=_COLOURS)}
        with matplotlib.rc_context(_STYLE | cycle), io.StringIO() as text, io.BytesIO() as image:
            rows = -(-len(self.panels) // 4)  # of four at most, and of about as many each
            columns = -(-len(self.panels) // rows)
            canvas = Canvas(figsize=(3.3 * columns, self.height * rows), layout="constrained")
            axes = canvas.subplots(rows, columns, squeeze=False).ravel()
            for place, panel in zip(axes, self.panels, strict=False):
                panel(place)
            for place in axes[len(self.panels) :]:
                place.remove()
            canvas.get_layout_engine().execute(canvas)
            canvas.set_layout_engine("none")
            undated = {"Date": None, "Creator": None}
            canvas.savefig(text, format="svg", metadata=undated, transparent=True)
            canvas.savefig(image, format="png", dpi=150, facecolor="white")
            return Drawn(
                self.name, self.title, _inside(text.getvalue(), self.name), image.getvalue()
            )


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A picture in both forms.

    Attributes:
      name, title: of the figure.
      svg: to stand inside of a page: without a prologue, its ids beginning with its name.
      png: on white, at 150 dots an inch.
    """

    name: str
    title: str
    svg: str
    png: bytes


def _inside(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)


def training_figures(metrics: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Curves over the steps of a run; only those that there is something of."""
    known = dict.fromkeys(name for line in metrics for name in line)
    parts = [n for n in known if n.startswith("reward_") and n in _COMPONENTS]
    others = [n for n in known if n.startswith("reward_") and n not in _COMPONENTS]
    tools = [name for name in known if name.startswith("tc/")]
    evaluated = [n for n in ("eval/success", "eval/reward", "eval/progress") if n in known]
    groups = {
        "rewards": ("Rewards of the training rollouts", [
            ("total and components", ["reward", *parts]), ("parts of them", others),
            ("success and memory", ["success", "progress", "memory_quality", "answered"]),
        ]),
        "evaluations": ("Evaluations on held-out tasks on the way, with 95 % intervals", [
            (name.removeprefix("eval/"), [name]) for name in evaluated
        ]),
        "behaviour": ("What the policy does", [
            ("calls per trajectory", tools), ("context, share of the budget",
             ["context_share", "context_share_max"]),
            ("errors", ["failed_calls", "format_errors", "idle_edits"]),
        ]),
        "updates": ("Updates", [
            ("loss", ["loss"]), ("KL from the reference", ["kl"]),
            ("entropy of sampling", ["entropy"]), ("norm of the gradient", ["grad_norm"]),
            ("share of ratios clipped", ["clip_fraction"]), ("learning rate", ["learning_rate"]),
        ]),
    }  # fmt: skip
    return [
        Figure(name, title, panels)
        for name, (title, wanted) in groups.items()
        if (panels := [_curves(metrics, told, names) for told, names in wanted
                       if any(_points(metrics, each)[0] for each in names)])
    ]  # fmt: skip


_COMPONENTS = ("reward_task", "reward_context", "reward_memory", "reward_penalty")


def _points(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    lines = [line for line in metrics if isinstance(line.get(name), int | float)]
    return [line["step"] for line in lines], [line[name] for line in lines]


def _curves(metrics: Sequence[Mapping[str, Any]], title: str, names: Sequence[str]) -> Draw:
    def draw(axes: "Axes") -> None:
        styles = ("-", "--", ":")
        for place, name in enumerate(names):
            steps, values = _points(metrics, name)
            if not steps:
                continue
            axes.plot(
                steps, values, styles[place // len(_COLOURS) % 3],
                marker="o" if len(steps) < 12 else None, markersize=3,
                label=name.removeprefix("reward_").removeprefix("tc/"),
            )  # fmt: skip
            low, high = _points(metrics, f"{name}_low")[1], _points(metrics, f"{name}_high")[1]
            if len(low) == len(high) == len(steps):
                axes.fill_between(steps, low, high, alpha=0.2, linewidth=0)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(axes.lines) > 1:
            _legend_below(axes)

    return draw


def evaluation_figures(records: Mapping[str, Record]) -> list[Figure]:
    """Scores with their intervals, and what they cost, of the methods on each set of tasks.

    Args:
      records: by file.
    """
    found = []
    for number, (told, group) in enumerate(contents.by_tasks(records).items(), 1):
        titles = contents.source_titles(group)
        measured = [record.measures.estimates for record in group.values()]
        known = {name for each in measured for name in each}
        if all(each.get("f1") == each.get("j") for each in measured):
            known.discard("f1")  # by the offline judge they are one
        ending = "" if number == 1 else f"_{number}"
        height = 1.0 + 0.3 * len(group)
        scores = [_bars(group, titles, n, title) for n, title in _SCORES.items() if n in known]
        costs = [_bars(group, titles, n, title) for n, title in _COSTS.items() if n in known]
        if any(any(record.measures.tc.values()) for record in group.values()):
            costs.append(_calls(group, titles))
        if scores:
            title = f"Scores on {told}, with 95 % intervals"
            found.append(Figure(f"scores{ending}", title, scores, height))
        if costs:
            title = f"Rewards and what they cost, on {told.split(', J by ')[0]}"
            found.append(Figure(f"costs{ending}", title, costs, max(height, 2.6)))
    return found


_SCORES = {
    "j": "J (share right)", "success": "goal reached", "progress": "progress",
    "f1": "F1 of answers", "mq": "MQ (memory quality)", "grounding": "grounding",
}  # fmt: skip
_COSTS = {"reward": "total reward", "tn": "TN (prompt tokens)"}


def _bars(records: Mapping[str, Record], titles: Mapping[str, str], name: str, told: str) -> Draw:
    def draw(axes: "Axes") -> None:
        found = [(titles[key], r.measures.estimates.get(name)) for key, r in records.items()]
        for place, (_, value) in enumerate(found):
            if value is not None:
                axes.barh(place, value.mean, color=_COLOURS[place % len(_COLOURS)], alpha=0.8)
                axes.plot([value.low, value.high], [place, place], color=_INK, linewidth=1)
        if name in _SCORES:
            axes.set_xlim(0, 1)
        _name_rows(axes, [title for title, _ in found])
        axes.set_title(told)

    return draw


def _calls(records: Mapping[str, Record], titles: Mapping[str, str]) -> Draw:
    def draw(axes: "Axes") -> None:
        tools = dict.fromkeys(tool for r in records.values() for tool in r.measures.tc)
        left = [0.0] * len(records)
        for number, tool in enumerate(tools):
            values = [r.measures.tc.get(tool, 0.0) for r in records.values()]
            if any(values):
                axes.barh(
                    range(len(records)), values, left=left, label=tool.split("_")[0],
                    color=_COLOURS[number % len(_COLOURS)],
                    alpha=0.8 if number < len(_COLOURS) else 0.45,
                )  # fmt: skip
                left = [a + b for a, b in zip(left, values, strict=True)]
        _name_rows(axes, [titles[key] for key in records])
        axes.set_title("TC (calls per task)")
        _legend_below(axes)

    return draw


def _legend_below(axes: "Axes") -> None:
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, handlelength=1.4, columnspacing=1
    )


def _name_rows(axes: "Axes", names: Sequence[str]) -> None:
    cut = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
    axes.set_yticks(range(len(names)), cut)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
