"""The whole page as one text: figures and tables to read at once, trajectories packed.

Trajectories are HTML already, many in a block that is compressed; the page unpacks a block when
something of it is opened or searched. So hundreds of them open at once and take little space.
"""

import base64
import dataclasses
import gzip
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import agemem_jax
from agemem_jax.evaluation.metrics import Measures
from agemem_jax.evaluation.records import Record
from agemem_jax.report import contents, figures, fragments
from agemem_jax.report import view as views
from agemem_jax.report.contents import Contents, Played
from agemem_jax.report.figures import Drawn
from agemem_jax.rewards.estimates import Estimate

_PER_BLOCK = 20
_SCORES = {
    "j": "J", "f1": "F1", "success": "success", "progress": "progress", "grounding": "grounding",
    "mq": "MQ", "r_memory": "R_memory",
}  # fmt: skip
_PLAIN = {"reward": "reward", "tn": "TN", "steps": "steps"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much a page holds.

    Attributes:
      trajectories: at most; of more, as many are taken evenly from all.
      megabytes: that the packed trajectories take at most; of more, likewise.
    """

    trajectories: int = 2000
    megabytes: float = 16.0

    def __post_init__(self):
        if self.trajectories < 0 or self.megabytes <= 0:
            raise ValueError(
                f"A report of {self.trajectories} trajectories in {self.megabytes} megabytes is "
                "none; give 0 or more, and a number of megabytes above 0."
            )


DEFAULT = Limits()


def page(found: Contents, limits: Limits) -> tuple[str, list[Drawn]]:
    """The HTML of a report, and the figures in it, for files of their own."""
    curves = [each.draw() for each in figures.training_figures(found.metrics)]
    compared = [each.draw() for each in figures.evaluation_figures(found.records)]
    chosen, rows, blocks = _packed(found.played, limits)
    text = (
        fragments.environment()
        .get_template("page.html")
        .render(
            title=found.title,
            summary=_summary(found),
            remarks=_remarks(found, len(chosen)),
            results=_results(found.records),
            figures=compared,
            curves=curves,
            config=contents.flat(found.config),
            rows={
                "columns": list(rows[0]) if rows else [],
                "rows": [list(row.values()) for row in rows],
                "per_block": _PER_BLOCK,
            },
            blocks=blocks,
            styles=_asset("tabulator/tabulator_simple.min.css") + _asset("report.css"),
            scripts=[_tabulator(), _asset("report.js")],
            version=agemem_jax.__version__,
        )
    )
    return text, [*compared, *curves]


def _packed(
    played: Sequence[Played], limits: Limits
) -> tuple[Sequence[Played], list[dict[str, Any]], list[str]]:
    """The trajectories that are shown, their rows of the table, and their packed HTML."""
    chosen = _thinned(played, limits.trajectories)
    shown = [views.view(each) for each in chosen]
    made = [fragments.render(each) for each in shown]
    blocks = _blocks(made)
    size, room = sum(map(len, blocks)), limits.megabytes * 1e6
    if size > room:
        kept = _thinned(range(len(chosen)), int(len(chosen) * room / size))
        chosen, shown = [chosen[i] for i in kept], [shown[i] for i in kept]
        blocks = _blocks([made[i] for i in kept])
    return chosen, [views.row(number, each) for number, each in enumerate(shown)], blocks


def _thinned(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the values, evenly from all."""
    if len(values) <= count:
        return list(values)
    return [values[place * len(values) // count] for place in range(count)]


def _blocks(made: Sequence[str]) -> list[str]:
    """Base64 of the gzipped JSON of so many texts each; the same bytes for the same texts."""
    return [
        base64.b64encode(
            gzip.compress(
                json.dumps(made[start : start + _PER_BLOCK], ensure_ascii=False).encode(), mtime=0
            )
        ).decode()
        for start in range(0, len(made), _PER_BLOCK)
    ]


def _summary(found: Contents) -> list[str]:
    """What it is a report of, in a few words each."""
    config, told = found.config, []
    backbones = {str(r.settings.get("backbone")) for r in found.records.values()}
    backbone = config.get("backbone") or ", ".join(sorted(backbones))
    if backbone:
        told.append(f"backbone {backbone}")
    if config:
        told.append(f"tasks {config.get('tasks', {}).get('source', '')}, seed {config.get('seed')}")
    steps = [line for line in found.metrics if "reward" in line]
    if found.metrics:
        last = found.metrics[-1]
        told.append(f"trained to step {last['step']} (phase {last.get('phase', '?')})")
    if steps:
        told.append(f"reward {steps[0]['reward']:.2f} → {steps[-1]['reward']:.2f}")
    count = len(found.played)
    told.append(f"{count} {'trajectory' if count == 1 else 'trajectories'}")
    return told


def _remarks(found: Contents, shown: int) -> list[str]:
    remarks = []
    if not found.played:
        remarks.append(
            "No trajectory is stored here. Training keeps some with samples.every above 0, and "
            "evaluations keep all."
        )
    elif shown < len(found.played):
        remarks.append(f"{shown} of {len(found.played)} trajectories are in this file, evenly.")
    if found.unreadable:
        lines = "line was" if found.unreadable == 1 else "lines were"
        remarks.append(f"{found.unreadable} {lines} no trajectory and left out.")
    return remarks


def _results(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Tables of the evaluation's figures, one for each set of tasks."""
    tables = []
    for told, group in contents.by_tasks(records).items():
        titles = contents.source_titles(group)
        columns = _columns([record.measures for record in group.values()])
        rows = [
            {"title": titles[name], "record": name, "cells": _cells(record.measures, columns)}
            for name, record in group.items()
        ]
        title = f"{told}; 95 % intervals"
        tables.append({"title": title, "columns": ["tasks", *columns.values()], "rows": rows})
    return tables


def _columns(measures: Sequence[Measures]) -> dict[str, str]:
    every = {**_SCORES, **_PLAIN}
    if all(each.estimates.get("f1") == each.estimates.get("j") for each in measures):
        del every["f1"]  # by the offline judge they are one
    return {n: t for n, t in every.items() if any(n in each.estimates for each in measures)}


def _cells(measures: Measures, columns: Mapping[str, str]) -> list[dict[str, str]]:
    failed = f"and {measures.failed} failed" if measures.failed else ""
    cells = [{"mean": str(measures.tasks), "interval": failed}]
    for name in columns:
        value = measures.estimates.get(name)
        cells.append({"mean": "", "interval": ""} if value is None else _cell(name, value))
    return cells


def _cell(name: str, value: Estimate) -> dict[str, str]:
    scale, digits = (100, 1) if name in _SCORES else (1, 0 if name == "tn" else 2)
    mean, low, high = (f"{scale * x:.{digits}f}" for x in (value.mean, value.low, value.high))
    return {"mean": mean, "interval": f"[{low}, {high}]"}


def _asset(name: str) -> str:
    """A file of the package, which may stand inside of a <style> or a <script>."""
    folder = importlib.resources.files("agemem_jax.report") / "assets"
    text = (folder / name).read_text(encoding="utf-8")
    return re.sub(r"(?://|/\*)# sourceMappingURL=\S+(?: ?\*/)?", "", text)


def _tabulator() -> str:
    """The table's script behind its licence, which has to go with it."""
    return f"/*\n{_asset('tabulator/LICENSE')}\n*/\n{_asset('tabulator/tabulator.min.js')}"
