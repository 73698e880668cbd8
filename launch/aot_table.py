"""Puts what aot_check.py has written by --json into the tables of docs/scaling.md.

python launch/aot_table.py FILE.json ...
"""

import json
import pathlib
import sys

_HEAD = (
    "| backbone | training | topology | GiB of a chip | fits | TFLOP | GB moved | GB exchanged | "
    "least time, ms | bound by | MFU, at most |"
)


def main(paths: list[str]) -> None:
    reports = [json.loads(pathlib.Path(path).read_text()) for path in paths]
    for name in ("update", "score", "prefill", "decode"):
        print(f"\n### {name.capitalize()}\n")
        print(_HEAD)
        print("|---" * _HEAD.count(" | ") + "|---|")
        for report in reports:
            if name in report["functions"]:
                print(row(report, report["functions"][name]))


def row(report: dict, figures: dict) -> str:
    """One function of one job; a chip's own figures."""
    memory, costs = figures["memory"], figures["costs"]
    total = sum(memory[kind] for kind in ("arguments", "outputs", "temporaries", "held"))
    exchanged = sum(each["bytes"] for each in costs["collectives"].values())
    cells = [
        report["backbone"],
        f"LoRA {report['lora_rank']}" if report["lora_rank"] else "full",
        report["topology"],
        f"{total / 2**30:.1f} of {memory['available'] / 2**30:.1f}",
        "yes" if total <= memory["available"] else "no",
        f"{costs['flops'] / 1e12:.1f}",
        f"{costs['bytes'] / 1e9:.0f}",
        f"{exchanged / 1e9:.2f}",
        f"{1e3 * figures['seconds']:.0f}",
        figures["bound"],
        f"{100 * figures['mfu']:.0f} %",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
