"""Puts what aot_check.py has written by --json into the table of docs/scaling.md.

python launch/aot_table.py FILE.json ...
"""

import json
import pathlib
import sys

_HEAD = (
    "| backbone | training | topology | fits | GiB of a chip: update, prefill, decode | "
    "GB exchanged: update, prefill, decode | least time, ms: update, prefill, decode | "
    "MFU at most, %: update, prefill |"
)


def main(paths: list[str]) -> None:
    print(_HEAD)
    print("|---" * 8 + "|")
    for path in paths:
        print(row(json.loads(pathlib.Path(path).read_text())))


def row(report: dict) -> str:
    """One job."""
    functions = report["functions"]
    played = [functions[name] for name in ("update", "prefill", "decode")]
    memory = [each["memory"] for each in played]
    total = [sum(m[k] for k in ("arguments", "outputs", "temporaries", "held")) for m in memory]
    exchanged = [sum(c["bytes"] for c in each["costs"]["collectives"].values()) for each in played]
    training = f"LoRA {report['lora_rank']}" if report["lora_rank"] else "full"
    cells = [
        report["backbone"], training, report["topology"], "yes" if report["fits"] else "no",
        f"{_join(total, 2**30, 1)} of {memory[0]['available'] / 2**30:.1f}",
        _join(exchanged, 1e9, 2),
        ", ".join(f"{1e3 * each['seconds']:.0f} ({each['bound']})" for each in played),
        _join([each["mfu"] for each in played[:2]], 0.01, 0),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _join(values: list[float], unit: float, digits: int) -> str:
    return ", ".join(f"{value / unit:.{digits}f}" for value in values)


if __name__ == "__main__":
    main(sys.argv[1:])
