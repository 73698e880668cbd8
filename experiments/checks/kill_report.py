"""Runs that are disturbed until all kills are spent, and what is written of them."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich
from absl import logging


def spend_kills(
    workdir: pathlib.Path,
    wanted: int,
    kills: Sequence[Any],
    disturb: Callable[[pathlib.Path], None],
    compare: Callable[[pathlib.Path, pathlib.Path], list[str]],
) -> dict[str, list[str]]:
    """Disturbed runs, until there were `wanted` kills: what differs from the run in peace, by run.

    Args:
      workdir: with the run in peace in `peaceful`.
      wanted: kills in all.
      kills: those that there were so far, to which `disturb` adds.
      disturb: plays a run in a folder to its end, killing it on the way.
      compare: names what of two runs' ends is not the same.
    """
    differences: dict[str, list[str]] = {}
    while len(kills) < wanted:  # a run may come to its end before all kills are spent
        disturbed = workdir / f"disturbed-{len(differences) + 1}"
        logging.info("A run with %d kills: %s", wanted - len(kills), disturbed)
        disturb(disturbed)
        differences[disturbed.name] = compare(workdir / "peaceful", disturbed)
    return differences


def write_report(
    workdir: pathlib.Path,
    kills: Sequence[Any],
    columns: Mapping[str, Callable[[Any], Any]],
    differences: Mapping[str, list[str]],
    same: str,
) -> None:
    """Writes kills.json and kills.md, and prints the latter.

    Args:
      workdir: where to.
      kills: dataclasses, one for each.
      columns: of the table, by heading: what stands there of a kill.
      differences: what differs, by run.
      same: the end of the sentence about a run without any.

    Raises:
      ValueError: something differs.
    """
    report = {"kills": [dataclasses.asdict(kill) for kill in kills], "differences": differences}
    (workdir / "kills.json").write_text(json.dumps(report, indent=2) + "\n")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(str(tell(kill)) for tell in columns.values())} |" for kill in kills]
    lines.append("")
    for run, different in differences.items():
        lines.append(f"{run}: {'differs in ' + ', '.join(different) if different else same}.")
    text = "\n".join(lines) + "\n"
    (workdir / "kills.md").write_text(text)
    rich.print(text)
    if any(differences.values()):
        raise ValueError(f"Runs differ, see above and {workdir / 'kills.json'}.")
