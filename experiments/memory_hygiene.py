"""What state memories are in behind a long history, by method, before and after training.

    python experiments/memory_hygiene.py --workdir=runs/quickstart

Tells held-out embedded tasks as long histories of many tasks each, in sessions, asks every one of
their questions, and measures the memory behind it: shares of junk, duplicates, stale entries and
contradictions, and what deletions leave behind (docs/metrics.md). Where the work directory holds
no training run, --config names the backbone, and methods with trained weights are left out. Writes
memory_hygiene.md; episodes are kept in evaluation/ of the work directory, so that the same command
goes on where it was stopped.
"""

import dataclasses
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

import rich
from absl import app, flags, logging

from agemem_jax.commands import cli
from agemem_jax.commands.config_flag import CONFIG
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.evaluation import reports
from agemem_jax.evaluation.evaluate import Evaluator
from agemem_jax.evaluation.records import Record, Records
from agemem_jax.methods.registry import find_methods
from agemem_jax.rewards.trajectory_markdown import render_trajectories
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.training.configuration import run_config, run_record
from agemem_jax.training.configuration.run_config import RunConfig

_METHODS = flags.DEFINE_list(
    "methods", ["agemem_norl", "agemem", "archive_turns", "file_search"], "To compare, in order."
)
_HISTORY = flags.DEFINE_integer("history", 20, "Tasks whose messages make one history.", 1)
_HISTORIES = flags.DEFINE_integer("histories", 2, "Histories that are told.", 1)
_SESSION = flags.DEFINE_integer("session", 4, "Messages until the context is reset.", 1)
_ENTRIES = flags.DEFINE_integer("entries", 160, "That a memory holds.", 1)


def long_histories(
    config: RunConfig, history: int, histories: int, session: int, entries: int
) -> RunConfig:
    """A run's configuration where `histories` of `history` embedded tasks each are told."""
    options = dict(config.tasks.options) if config.tasks.source == "multihop" else {}
    options["tasks_per_history"] = history
    most = options.get("max_messages", 5) * history
    return dataclasses.replace(
        config,
        tasks=TaskConfig("multihop", options, eval_size=history * histories),
        episode=dataclasses.replace(
            config.episode, max_messages=most, messages_per_session=session
        ),
        memory=dataclasses.replace(config.memory, entries=entries),
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    workdir = pathlib.Path(WORKDIR.value)
    recorded = run_record.read(workdir)
    if recorded is None and CONFIG.value is None:
        raise app.UsageError(f"{workdir} holds no training run; --config names a backbone.")
    config = long_histories(
        recorded or run_config.build(CONFIG.value),
        _HISTORY.value, _HISTORIES.value, _SESSION.value, _ENTRIES.value,
    )  # fmt: skip
    methods = find_methods(_METHODS.value)
    if recorded is None:
        methods = {name: method for name, method in methods.items() if not method.trained}
    evaluator, records, results = Evaluator(config, workdir), Records(workdir), {}
    try:
        for name, method in methods.items():
            settings = evaluator.settings(method)
            record = records.find(name, settings)
            if record is None:
                logging.info("Playing %s", method.title)
                played = evaluator.run(method, records.episodes(name, settings))
                pairs = list(zip(played.trajectories, played.rewards, strict=True))
                record = Record(
                    name, method.title, settings, played.measures,
                    tasks=[{"task": t.task.task_id, **r.values} for t, r in pairs],
                    trajectories=render_trajectories(pairs[:1]),
                )  # fmt: skip
                records.write(record)
            results[method.title] = record.measures
    finally:
        evaluator.close()
    title = f"histories of {_HISTORY.value} tasks, {config.backbone}, seed {config.seed}"
    scores = reports.render_tables(results, title, config.judge.title)[0]
    tables = [scores, *reports.hygiene_tables(results)]
    for table in tables:
        rich.print(table)
    reports.write_tables(workdir / "memory_hygiene.md", tables)


if __name__ == "__main__":
    cli.run(main)
