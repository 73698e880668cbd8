"""What people look at: the table of an evaluation, the learning curve, trajectories."""

import copy
import csv
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich import table as rich_table
from rich.console import Console

from agemem_jax.evaluation.metrics import Measures
from agemem_jax.evaluation.records import Record
from agemem_jax.rewards.estimates import Estimate

# Columns of scores, in percent: those of them that a method has a value for.
_SCORES = {
    "j": "J", "f1": "F1", "success": "success", "progress": "progress", "grounding": "grounding",
    "mq": "MQ", "r_memory": "R_memory",
}  # fmt: skip


def render_tables(
    results: Mapping[str, Measures], title: str, judge: str = "offline"
) -> list[rich_table.Table]:
    """Scores, what they cost, and what the reward is made of; at most 80 columns wide.

    Scores are in percent with 95 % intervals; calls of tools are means per task; rewards
    are means. What components are made of, and how full contexts were, has intervals as well;
    `evaluation.json` and `evaluation.csv` have those of all. Where tasks have several categories, a
    table more has the main score by them.

    Args:
      results: by title of the method.
      title: of the tasks.
      judge: who scored the answers; figures of other judges, or other prompts, are others.
    """
    shown = [name for name in _SCORES if any(name in m.estimates for m in results.values())]
    if all(m.estimates.get("f1") == m.estimates.get("j") for m in results.values()):
        shown = [name for name in shown if name != "f1"]  # by the offline judge they are one
    if len(shown) > 3:  # as many as a terminal has room for
        shown = [name for name in shown if name != "r_memory"][:4]
    narrow = len(shown) > 3
    scores = _table(title, ("tasks", *(_SCORES[name] for name in shown)))
    tools = sorted({tool for m in results.values() for tool in m.tc})
    tools, further = tools[:6], tools[6:]  # as many as a terminal has room for
    title = "tokens (TN) and tool calls (TC) per task"
    costs = _table(title, ("reward", "TN", "TC", *(tool.split("_")[0] for tool in tools)))
    others = _table(title, tuple(tool.split("_")[0] for tool in further))
    terms = list(dict.fromkeys(n for m in results.values() for n in m.estimates if n[:2] == "r_"))
    rewards = _table("rewards", ("total", *(name[2:] for name in terms)))
    for name, m in results.items():
        scores.add_row(name, str(m.tasks), *(_percent(m.estimates, each, narrow) for each in shown))
        costs.add_row(
            name, _mean(m, "reward"), _mean(m, "tn", 0), f"{sum(m.tc.values()):.2f}",
            *(f"{m.tc.get(tool, 0.0):.2f}" for tool in tools),
        )  # fmt: skip
        others.add_row(name, *(f"{m.tc.get(tool, 0.0):.2f}" for tool in further))
        rewards.add_row(name, _mean(m, "reward"), *(_mean(m, term) for term in terms))
    failed = ", ".join(f"{m.failed} of {name}" for name, m in results.items() if m.failed)
    remarks = [f"J by {judge}{_first_prompt(results)}."] if judge != "offline" else []
    remarks += [f"Episodes that failed and are left out: {failed}."] if failed else []
    scores.caption = " ".join(remarks) or None
    return [
        scores, *_judged(results, judge), *_by_category(results), costs,
        *([others] if further else []),
        *_means(results, "contexts and errors per task", _PLAYS), *hygiene_tables(results),
        rewards, *_parts(results),
    ]  # fmt: skip


# What the context and the protocol looked like; in percent where the head says so.
_PLAYS = {
    "context_share": "context %", "context_share_max": "fullest %", "idle_edits": "idle edits %",
    "failed_share": "failed calls %", "format_errors": "format errors",
    "unasked_trimmed": "trimmed", "unasked_summarised": "summarised",
    "unasked_archived": "archived",
}  # fmt: skip
_HYGIENE = {
    "memory_entries": "entries", "memory_junk": "junk %", "memory_distractors": "distractors %",
    "memory_duplicates": "duplicates %", "memory_stale": "stale %",
    "memory_contradictions": "contradictions %", "memory_left": "left by deletion %",
}  # fmt: skip


def hygiene_tables(results: Mapping[str, Measures]) -> list[rich_table.Table]:
    """The state of the memory at the end, by method; see `evaluation.hygiene`."""
    kept = {title: m for title, m in results.items() if _has_entries(m)}
    return _means(kept, "the memory at the end of a task", _HYGIENE)


def _has_entries(measures: Measures) -> bool:
    return "memory_entries" in measures.estimates and measures["memory_entries"].mean > 0


def _means(
    results: Mapping[str, Measures], title: str, heads: Mapping[str, str]
) -> list[rich_table.Table]:
    """Tables of means with intervals, three to each; what is 0 everywhere is left out."""
    always = [name for name in heads if not name.startswith("unasked_")]
    shown = [
        name for name in heads
        if any(name in m.estimates and (name in always or m[name].mean) for m in results.values())
    ]  # fmt: skip
    tables = []
    for names in _by_three(shown):
        table = _table(title, tuple(heads[name] for name in names))
        for method, m in results.items():
            cells = (_interval(m, name, heads[name].endswith("%")) for name in names)
            table.add_row(method, *cells)
        table.caption = _counted(results, names, heads)
        tables.append(table)
    return tables


def _judged(results: Mapping[str, Measures], judge: str) -> list[rich_table.Table]:
    """J by every prompt beside how often the same judge accepts an answer that is wrong."""
    prompts = _prompts(results)
    table = _table(f"answers by {judge}", ("prompt", "J", "accepts wrong", "F1", "EM"))
    for title, m in results.items():
        for prompt in prompts:
            j = f"j_{prompt}" if f"j_{prompt}" in m.estimates else "j"
            wrong = f"accepts_wrong_{prompt}"
            if wrong in m.estimates or f"j_{prompt}" in m.estimates:
                table.add_row(
                    title, prompt, _percent(m.estimates, j), _percent(m.estimates, wrong),
                    *(_percent(m.estimates, each, narrow=True) for each in ("f1", "em")),
                )  # fmt: skip
    told = ", ".join(f"{name} {prompt['id']}" for name, prompt in prompts.items())
    table.caption = f"Prompts: {told}. Wrong answers are those of other tasks."
    return [table] if table.row_count else []


def _prompts(results: Mapping[str, Measures]) -> dict[str, Mapping[str, str]]:
    """Those for answers that any of the results was judged by."""
    known: dict[str, Mapping[str, str]] = {}
    for m in results.values():
        known |= m.judged_by.get("prompts", {})
    used = {name for m in results.values() for name in m.estimates}
    return {
        name: prompt
        for name, prompt in known.items()
        if used & {f"accepts_wrong_{name}", f"j_{name}"}
    }


def _first_prompt(results: Mapping[str, Measures]) -> str:
    """The prompt that gave J; nothing where results of an earlier version do not say."""
    told = [f", prompt {name} ({prompt['id']})" for name, prompt in _prompts(results).items()]
    return told[0] if told else ""


def _parts(results: Mapping[str, Measures]) -> list[rich_table.Table]:
    """What the components of the reward are made of, each over the tasks where it was at stake."""
    every = dict.fromkeys(n for m in results.values() for n in m.estimates if n[:5] == "part_")
    tables = []
    for names in _by_three(list(every)):
        heads = {name: name.removeprefix("part_") for name in names}
        table = _table("parts of the rewards", tuple(heads.values()))
        for title, m in results.items():
            table.add_row(title, *(_interval(m, name) for name in names))
        table.caption = _counted(results, names, heads)
        tables.append(table)
    return tables


def _by_three(names: Sequence[str]) -> list[Sequence[str]]:
    """As many columns with intervals as a terminal has room for."""
    return [names[start : start + 3] for start in range(0, len(names), 3)]


def _interval(measures: Measures, name: str, percent: bool = False) -> str:
    if name not in measures.estimates:
        return ""
    each = measures[name]
    return each.percent() if percent else f"{each.mean:.3f} [{each.low:.2f}, {each.high:.2f}]"


def _counted(
    results: Mapping[str, Measures], names: Sequence[str], heads: Mapping[str, str]
) -> str | None:
    """Over how many tasks the means are that not all tasks have a value for."""
    told = [
        f"{heads[name].removesuffix(' %')} over {m.counts[name]} tasks of {title}"
        for name in names
        for title, m in results.items()
        if m.counts.get(name)
    ]
    return f"{'; '.join(told)}." if told else None


def render_overview(results: Mapping[str, Mapping[str, Measures]]) -> rich_table.Table:
    """One figure in percent for each method and set of tasks: J or success, by what these are.

    Args:
      results: measures by method, by the title of the tasks, which begins with their source.
    """
    table = _table("J, or success, by tasks", tuple(title.split()[0] for title in results))
    for method in dict.fromkeys(name for measures in results.values() for name in measures):
        found = [measures.get(method) for measures in results.values()]
        table.add_row(method, *("" if m is None else _main(m.estimates) for m in found))
    return table


def _by_category(results: Mapping[str, Measures]) -> list[rich_table.Table]:
    if not any(m.categories for m in results.values()):
        return []
    titles, tables = list(results), []
    for start in range(0, len(titles), 4):
        shown = titles[start : start + 4]
        table = _table("J, or success, by category", shown, first="category")
        for category in dict.fromkeys(name for m in results.values() for name in m.categories):
            found = (results[title].categories.get(category, {}) for title in shown)
            table.add_row(category, *map(_main, found))
        tables.append(table)
    return tables


def _main(estimates: Mapping[str, Estimate]) -> str:
    """The one figure that tells most."""
    return _percent(estimates, "j" if "j" in estimates else "success", narrow=True)


def _percent(estimates: Mapping[str, Estimate], name: str, narrow: bool = False) -> str:
    if name not in estimates:
        return ""
    estimate = estimates[name]
    return f"{100 * estimate.mean:.1f}" if narrow else estimate.percent()


def _mean(measures: Measures, name: str, digits: int = 3) -> str:
    return f"{measures[name].mean:.{digits}f}" if name in measures.estimates else ""


def _table(title: str, columns: Sequence[str], first: str = "method") -> rich_table.Table:
    table = rich_table.Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def write_results(workdir: str | os.PathLike, records: Sequence[Record]) -> None:
    """`evaluation.json` and `evaluation.csv`, a row per record, and `trajectories.md`."""
    folder = pathlib.Path(workdir)
    rows = [
        {
            "method": record.method,
            "title": record.title,
            "settings": dict(record.settings),
            **_written(record.measures),
        }
        for record in records
    ]
    (folder / "evaluation.json").write_text(json.dumps({"results": rows}, indent=2) + "\n")
    flat = [_flatten(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    with (folder / "evaluation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(flat)
    lines = ["# Trajectories", ""]
    for record in records:
        lines += [f"## {record.title}, {_told(record.settings)}", "", record.trajectories]
    (folder / "trajectories.md").write_text("\n".join(lines))


def write_tables(path: str | os.PathLike, tables: Sequence[rich_table.Table]) -> None:
    """Tables as Markdown, with their titles and remarks."""
    with open(path, "w") as file:
        console = Console(file=file, width=1000)
        for table in tables:
            shown = copy.copy(table)
            shown.title, shown.caption, shown.box, shown.show_edge = None, None, box.MARKDOWN, True
            console.print(f"{table.title}\n", markup=False)
            console.print(shown)
            console.print(f"\n{table.caption}\n" if table.caption else "", markup=False)


def _written(measures: Measures) -> dict[str, Any]:
    values = dataclasses.asdict(measures)
    return {"tasks": values.pop("tasks"), **values.pop("estimates"), **values}


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in _flatten(settings).items())


def _flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def write_learning_curve(
    path: str | os.PathLike, metrics: Sequence[Mapping[str, Any]], components: Sequence[str]
) -> None:
    """A picture of the reward and its components over the GRPO iterations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [line for line in metrics if "reward" in line]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    labels = {"reward": "total reward", **{f"reward_{name}": f"R_{name}" for name in components}}
    for name, label in labels.items():
        known = [row for row in rows if row.get(name) is not None]
        if known:
            axes.plot([r["step"] for r in known], [r[name] for r in known], label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("mean over the batch")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
