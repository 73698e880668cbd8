"""Where in an episode tools were called: counted in the stored episodes."""

import collections
import json
from collections.abc import Callable, Sequence

from agemem_jax.evaluation.paper.results import Cell, Measured
from agemem_jax.evaluation.sweeps import over_seeds
from agemem_jax.rewards.estimates import bootstrap


def by_stage(measured: Sequence[Measured]) -> Callable[[str, int], Cell]:
    """A function that gives the calls per episode of a tool ("tc" is any) in a stage."""
    counted = {each.seed: _count(each) for each in measured}

    def cell(tool: str, stage: int) -> Cell:
        found = {
            seed: [
                sum(n for (name, at), n in each.items() if at == stage and tool in (name, "tc"))
                for each in episodes
            ]
            for seed, episodes in counted.items()
            if episodes
        }
        if not found:
            return Cell("tc")
        means = {seed: sum(each) / len(each) for seed, each in found.items()}
        one = next(iter(found.values()))
        return Cell(
            "tc",
            over_seeds(list(means.values())) if len(means) > 1 else bootstrap(one),
            means,
            len(one),
            [{"seed": each.seed, **each.paths} for each in measured],
        )

    return cell


def _count(measured: Measured) -> list[collections.Counter]:
    """Of every episode that counts in the record, the calls by tool on offer and stage."""
    lines = {}
    path = measured.episodes
    for line in path.read_text().split("\n") if path.is_file() else ():
        try:
            episode = json.loads(line)
            if episode["fault"] is None:
                lines[episode["index"]] = episode
        except (ValueError, KeyError):
            continue  # cut off
    return [
        collections.Counter(
            (event["name"], event["stage"])
            for event in episode["events"]
            if event["event"] == "ToolEvent" and event["name"] in episode["tools"]
        )
        for episode in lines.values()
    ]
