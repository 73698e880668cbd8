"""The benchmark's report, for people and for programs."""

import dataclasses


def markdown(report: dict) -> str:
    """The report as Markdown: one table for each suite."""
    lines = ["# Benchmark", ""]
    lines += [f"- {name}: {value}" for name, value in report["machine"].items()] + [""]
    for name, cases in report["suites"].items():
        lines += [f"## {name}", "", "| case | ours | peer | times as fast | wanted |"]
        lines += ["|---|---|---|---|---|"]
        for case in cases:
            others = dict(case.peers)
            if case.limit is not None:
                others["limit"] = case.limit
            first = f"| {case.name} | {'none, see below' if case.ours is None else case.ours} |"
            for other, measured in others.items():
                wanted = case.wanted.get(other)
                wanted = "" if wanted is None else f"{wanted:g}"
                ratio = case.ratio(measured)
                lines.append(f"{first} {other}: {measured} | {ratio:.2f} | {wanted} |")
                first = "| | |"
            if not others:
                lines.append(f"{first} | | |")
        notes = [f"- {case.name}: {case.note}" for case in cases if case.note]
        lines += ["", *notes, ""] if notes else [""]
    return "\n".join(lines)


def plain(report: dict) -> dict:
    """The report as plain values, for JSON."""
    suites = {
        name: [dataclasses.asdict(case) for case in cases]
        for name, cases in report["suites"].items()
    }
    return report | {"suites": suites}
