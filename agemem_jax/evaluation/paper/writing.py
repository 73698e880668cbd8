"""Writes tables as Markdown, CSV, LaTeX and HTML, and as JSON what stands behind each figure.

From a figure of the HTML page one follows a link to the record of each seed and to the
trajectories; the JSON file has the same as paths, relative to the folder that it is in.
"""

import csv
import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from agemem_jax.evaluation.paper.results import PERCENT, Cell
from agemem_jax.evaluation.paper.tables import Table

MISSING = "–"


def text(cell: str | Cell, plus_minus: str = "±") -> str:
    """A figure with its interval, in percent where it is a share."""
    if isinstance(cell, str):
        return cell
    if cell.estimate is None:
        return MISSING
    mean, low, high = _scaled(cell)
    digits = 0 if abs(mean) >= 1000 else 1 if cell.metric in PERCENT or abs(mean) >= 100 else 2
    shown = f"{mean:.{digits}f}"
    if math.isinf(low):
        return shown
    if math.isclose(high - mean, mean - low, abs_tol=1e-9):
        return f"{shown} {plus_minus} {high - mean:.{digits}f}"
    return f"{shown} [{low:.{digits}f}, {high:.{digits}f}]"


def _scaled(cell: Cell) -> tuple[float, float, float]:
    scale = 100 if cell.metric in PERCENT else 1
    return tuple(scale * each for each in dataclasses.astuple(cell.estimate))


def write(folder: pathlib.Path, table: Table) -> None:
    """All forms of a table: `NAME.md`, `.csv`, `.tex`, `.json` and `.html`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": markdown(table), "tex": latex(table), "html": page(table),
        "json": json.dumps(behind(table), indent=2) + "\n",
    }  # fmt: skip
    for end, content in texts.items():
        (folder / f"{table.name}.{end}").write_text(content)
    with (folder / f"{table.name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(spread(table))


def markdown(table: Table) -> str:
    """A pipe table, the best figures bold."""

    def shown(cell: str | Cell) -> str:
        told = text(cell).replace("|", "\\|")
        return f"**{told}**" if isinstance(cell, Cell) and cell.best else told

    rules = ["---" if place < table.labels else "---:" for place in range(len(table.head))]
    lines = [list(table.head), rules, *([shown(c) for c in row] for row in table.rows)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {table.title}\n\n{body}\n\n{' '.join(table.notes)}\n"


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "θ": r"$\theta$", "±": r"$\pm$", "–": "--", "×": r"$\times$",
}  # fmt: skip


def _escaped(told: str) -> str:
    return "".join(_LATEX.get(character, character) for character in told)


def latex(table: Table) -> str:
    """A `table` with the rules of booktabs; a rule more where the first column changes."""

    def shown(cell: str | Cell) -> str:
        told = _escaped(text(cell))
        return rf"\textbf{{{told}}}" if isinstance(cell, Cell) and cell.best else told

    lines = []
    for number, row in enumerate(table.rows):
        if number and row[0] != table.rows[number - 1][0]:
            lines.append(r"\midrule")
        lines.append(" & ".join(shown(cell) for cell in row) + r" \\")
    layout = "l" * table.labels + "r" * (len(table.head) - table.labels)
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering",
            rf"\begin{{tabular}}{{{layout}}}", r"\toprule",
            " & ".join(_escaped(each) for each in table.head) + r" \\", r"\midrule", *lines,
            r"\bottomrule", r"\end{tabular}",
            rf"\caption{{{_escaped(f'{table.title}. ' + ' '.join(table.notes))}}}",
            rf"\label{{tab:{table.name}}}", r"\end{table}", "",
        ]
    )  # fmt: skip


def spread(table: Table) -> list[list[str]]:
    """Rows of the CSV file: a figure takes four columns, mean, low, high and tasks, unrounded."""
    places = {head for _, head, _ in table.cells()}
    lines = [
        [
            name
            for head in table.head
            for name in (
                [head, *(f"{head} {end}" for end in ("low", "high", "tasks"))]
                if head in places
                else [head]
            )
        ]
    ]
    for row in table.rows:
        line: list[str] = []
        for head, cell in zip(table.head, row, strict=True):
            if isinstance(cell, str):
                line += [cell] if head not in places else [cell, "", "", ""]
            elif cell.estimate is None:
                line += ["", "", "", ""]
            else:
                line += [_number(each) for each in _scaled(cell)] + [str(cell.tasks)]
        lines.append(line)
    return lines


def _number(value: float) -> str:
    return f"{value:.10g}" if math.isfinite(value) else ""


def behind(table: Table) -> dict[str, Any]:
    """What stands behind a table: of each figure value, interval, seeds, tasks and sources."""
    cells = []
    for number, head, cell in table.cells():
        values = {"mean": None, "low": None, "high": None}
        if cell.estimate is not None:
            found = dataclasses.asdict(cell.estimate)
            values = {name: v if math.isfinite(v) else None for name, v in found.items()}
        cells.append(
            {
                "row": [each for each in table.rows[number][: table.labels]],
                "column": head,
                "metric": cell.metric,
                **values,
                "best": cell.best,
                "tasks": cell.tasks,
                "seeds": {str(seed): value for seed, value in cell.seeds.items()},
                "sources": [dict(each) for each in cell.sources],
            }
        )
    return {"name": table.name, "title": table.title, "notes": list(table.notes), "cells": cells}


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("agemem_jax.evaluation.paper", "templates"), autoescape=True,
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip


def page(table: Table) -> str:
    """One HTML page: each figure unfolds to the records and trajectories that it is made of."""
    rows = [
        [(cell, text(cell)) if isinstance(cell, Cell) else (None, cell) for cell in row]
        for row in table.rows
    ]
    template = _environment().get_template("table.html")
    return template.render(table=table, rows=rows, scale=_scale)


def _scale(cell: Cell, value: float) -> str:
    return f"{100 * value:.2f}" if cell.metric in PERCENT else f"{value:.4g}"


def write_index(folder: pathlib.Path, names: Sequence[tuple[str, str]]) -> None:
    """`index.html`, from which all tables and pictures of a folder are reached.

    Args:
      folder: that they are in.
      names: and titles.
    """
    found = [
        {
            "name": name,
            "title": title,
            "picture": (folder / f"{name}.svg").is_file(),
            "files": [
                f"{name}.{end}"
                for end in ("html", "md", "csv", "tex", "json", "svg", "png")
                if (folder / f"{name}.{end}").is_file()
            ],
        }
        for name, title in names
    ]
    template = _environment().get_template("index.html")
    (folder / "index.html").write_text(template.render(studies=found))
