"""Puts what aot_check.py has written by --json into the tables of docs/scaling.md.

python launch/aot_table.py FILE.json ...
"""

import json
import pathlib
import sys

_COSTS = (
    "backbone", "training", "topology", "GiB of a chip", "fits", "TFLOP", "GB moved",
    "GB exchanged", "least time, ms", "bound by", "MFU, at most",
)  # fmt: skip
_PROGRAM = (
    "backbone", "training", "topology", "seconds to compile", "of processors", "temporaries, GiB",
    "kernels", "per layer", "launches", "predicate reads",
)  # fmt: skip


def main(paths: list[str]) -> None:
    reports = [json.loads(pathlib.Path(path).read_text()) for path in paths]
    for name in ("update", "score", "prefill", "decode"):
        found = [each for each in reports if name in each["functions"]]
        compiled = [each for each in found if each["functions"][name]["program"]]
        print(f"\n### {name.capitalize()}")
        show(_COSTS, [costs(each, each["functions"][name]) for each in found])
        show(_PROGRAM, [program(each, each["functions"][name]) for each in compiled])


def show(head: tuple[str, ...], rows: list[list[str]]) -> None:
    """A table, unless it has no rows."""
    if rows:
        lines = (head, ["---"] * len(head), *rows)
        print("\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def job(report: dict) -> list[str]:
    """What was compiled, and for what."""
    rank = report["lora_rank"]
    return [report["backbone"], f"LoRA {rank}" if rank else "full", report["topology"]]


def costs(report: dict, figures: dict) -> list[str]:
    """One function of one job; a chip's own figures."""
    memory, costs = figures["memory"], figures["costs"]
    total = sum(memory[kind] for kind in ("arguments", "outputs", "temporaries", "held"))
    exchanged = sum(each["bytes"] for each in costs["collectives"].values())
    return [
        *job(report),
        f"{total / 2**30:.1f} of {memory['available'] / 2**30:.1f}",
        "yes" if total <= memory["available"] else "no",
        f"{costs['flops'] / 1e12:.1f}",
        f"{costs['bytes'] / 1e9:.0f}",
        f"{exchanged / 1e9:.2f}",
        f"{1e3 * figures['seconds']:.0f}",
        figures["bound"],
        f"{100 * figures['mfu']:.0f} %",
    ]


def program(report: dict, figures: dict) -> list[str]:
    """What a GPU and its host do for a token, a call or a microbatch."""
    told, turn = figures["program"], figures["program"]["turn"]
    kernels = sum(turn["kernels"].values())
    return [
        *job(report),
        f"{told['seconds']:.0f}",
        f"{told['cpu_seconds']:.0f}",
        f"{figures['memory']['temporaries'] / 2**30:.2f}",
        f"{kernels:,}",
        f"{kernels / report['layers']:.1f}",
        f"{turn['launches']:,}",
        f"{turn['reads']:,}",
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
