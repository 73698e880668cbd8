"""Compares our memory systems with the libraries that they follow, on the same model replies.

    python experiments/checks/compare_memory_systems.py --system=mem0,mem0_graph

Twenty conversations are told to the real library, on a small OpenAI-compatible endpoint, and to our
method. Behind both is one scripted model, which replies the same to the same request, wrong replies
of every kind among them. Counted is in how many conversations both did the same to their stores, in
the same order; asked the model for the same; and found the same for a question. Each library has an
environment of its own (requirements-baselines-*.txt); --write keeps what it did for the tests.
"""

import collections
import dataclasses
import difflib
import json
import pathlib
import sys
from collections.abc import Sequence

import rich
from absl import app, flags, logging
from rich.table import Table

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))  # this clone, installed or not

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.tasks.task import Task
from experiments.checks.memory_systems.adapters import ADAPTERS, EXPLAINED
from experiments.checks.memory_systems.conversations import conversations
from experiments.checks.memory_systems.endpoint import Endpoint
from experiments.checks.memory_systems.exchange import Adapter, ModelRequest, Operation, Run
from experiments.checks.memory_systems.ours import run_ours

RECORDED = pathlib.Path(__file__).parent / "memory_systems" / "recorded"
TOP_K = 10

_SYSTEMS = flags.DEFINE_list("system", list(ADAPTERS), f"Which: {', '.join(ADAPTERS)}.")
_COUNT = flags.DEFINE_integer("conversations", 20, "How many.", 1)
_WRITE = flags.DEFINE_bool("write", False, f"Keep what the libraries did in {RECORDED.name}/.")


def run_library(adapter: Adapter, tasks: Sequence[Task]) -> list[Run]:
    """What the library does in each conversation. Raises ImportError where it is not installed."""
    return [_run_library(adapter, task) for task in tasks]


def _run_library(adapter: Adapter, task: Task) -> Run:
    requests: list[ModelRequest] = []

    def answer(body):
        request = adapter.request_of_library(body)
        requests.append(request)
        return adapter.answer(request)

    with Endpoint(answer, make_embedder("hashed_ngrams")) as endpoint:
        return adapter.run_library(task, endpoint.url, requests)


def of_ours(adapter: Adapter, tasks: Sequence[Task]) -> list[Run]:
    """What our method does in the same conversations."""
    return run_ours(adapter, tasks, make_embedder("hashed_ngrams"), TOP_K)


def recorded(system: str) -> list[Run]:
    """What a library did when it was last run with `--write`, as `Run.short` has it."""
    values = json.loads((RECORDED / f"{system}.json").read_text())
    return [
        Run(
            tuple(Operation(*each) for each in value["operations"]),
            tuple(value["requests"]),
            tuple(value["found"]),
        )
        for value in values
    ]


def _write(system: str, runs: Sequence[Run]) -> None:
    RECORDED.mkdir(exist_ok=True)
    values = [
        {
            "operations": [dataclasses.astuple(each) for each in run.operations],
            "requests": run.requests,
            "found": run.found,
        }
        for run in (run.short for run in runs)
    ]
    lines = ",\n".join(json.dumps(value, ensure_ascii=False) for value in values)
    (RECORDED / f"{system}.json").write_text(f"[{lines}]\n")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    logging.set_verbosity(logging.WARNING)  # clients tell of each call
    tasks = conversations(_COUNT.value)
    table = Table(title=f"{len(tasks)} conversations, the library and ours")
    for column in ("system", "operations", "same operations", "same requests", "same findings"):
        table.add_column(column, justify="left" if column == "system" else "right")
    unexplained = 0
    for system in _SYSTEMS.value:
        adapter = ADAPTERS[system]
        theirs, ours = run_library(adapter, tasks), of_ours(adapter, tasks)
        if _WRITE.value:
            _write(system, theirs)
        pairs = list(zip(theirs, ours, strict=True))
        same = [
            f"{sum(getattr(a, name) == getattr(b, name) for a, b in pairs)} of {len(pairs)}"
            for name in ("operations", "requests", "found")
        ]
        table.add_row(system, _kinds(theirs), *same)
        for task, (library, own) in zip(tasks, pairs, strict=True):
            if library != own:
                unexplained += task.task_id not in EXPLAINED.get(system, {})
                _show_differences(system, task, library, own)
    rich.print(table)
    if unexplained:
        sys.exit(f"{unexplained} conversations differ and are not in adapters.EXPLAINED.")


def _kinds(runs: Sequence[Run]) -> str:
    """How many operations of each kind there were."""
    counts = collections.Counter(each.kind for run in runs for each in run.operations)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _show_differences(system: str, task: Task, library: Run, own: Run) -> None:
    why = EXPLAINED.get(system, {}).get(task.task_id, "Nobody has explained this yet.")
    print(f"{system}, {task.task_id}: {why}")
    for name in ("operations", "requests", "found"):
        first, second = ([str(each) for each in getattr(run, name)] for run in (library, own))
        if first != second:
            print(f"  {name} of the library (-) and ours (+)")
            for line in difflib.unified_diff(first, second, n=1, lineterm=""):
                if not line.startswith(("---", "+++")):
                    print("   ", line)


if __name__ == "__main__":
    app.run(main)
