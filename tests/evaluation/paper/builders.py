"""Small stored results, as agemem-reproduce leaves them, without any training."""

import json
import pathlib
from collections.abc import Callable

import numpy as np

from agemem_jax.evaluation.metrics import Measures
from agemem_jax.evaluation.paper import studies
from agemem_jax.evaluation.paper.plan import Plan
from agemem_jax.evaluation.records import Record, Records
from agemem_jax.methods.registry import find_method
from agemem_jax.rewards.estimates import Estimate, bootstrap
from agemem_jax.training.configuration.run_config import RunConfig

METHODS = ("no_memory", "agemem_norl", "agemem")
# The share of right answers by variant and method; what is not named has one half.
QUALITY = {
    ("agemem", "no_memory"): 0.1, ("agemem", "agemem_norl"): 0.3, ("agemem", "agemem"): 0.8,
    ("no_memory_rl", "no_memory+rl"): 0.4, ("answer_only", "agemem"): 0.6,
}  # fmt: skip
TASKS = 20


def request(**changes) -> studies.Request:
    values = {"benchmarks": ("multihop", "babyai", "pddl"), "methods": METHODS}
    return studies.Request(RunConfig(), **values | changes)


def stored(
    workdir: pathlib.Path,
    names=("table2",),
    seeds=(0, 1, 2),
    quality: Callable[[str, str, int], float] | None = None,
    rows: bool = True,
    **changes,
) -> Plan:
    """A plan with a record of everything that it needs."""
    plan = Plan.make(workdir, request(**changes), names, seeds)
    plan.write()
    for variant in plan.variants:
        for seed in seeds:
            folder = plan.folder(variant, seed)
            for step, (methods, sources) in plan.evaluations(variant).items():
                found = []
                for place, source in enumerate(sources or plan.benchmarks):
                    for method in methods:
                        share = QUALITY.get((variant, method), 0.5)
                        share = quality(variant, method, seed) if quality else share
                        record = make_record(source, method, share, (seed, place), rows)
                        found.append(_keep(folder, source, record))
                (folder / f"{step}.index.json").write_text(json.dumps({"records": found}))
            lines = [
                {"step": i, "reward_task": 0.1 * i, "tc/Add_memory": i, "sampled_tokens": 9}
                for i in (1, 2, 3)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / "metrics.jsonl").write_text(text)
    return plan


def make_record(source, method, share, seed, with_rows=True) -> Record:
    name = source.partition("(")[0]
    main = {"pddl": "progress", "multihop": "j", "hotpotqa": "j"}.get(name, "success")
    rng = np.random.default_rng(seed)
    scores = (rng.permutation(TASKS) < share * TASKS).astype(float)
    costs = {"tn": 300.0, "prompt_total": 3000 * share, "sampled": 100.0, "calls": 10.0}
    costs |= {"mq": share / 2} if main == "j" else {}
    rows = [
        {main: score, "tc_Add_memory": 2.0, "tc_Filter_context": 1.0, **costs} for score in scores
    ]
    if main == "progress":
        rows = [{**row, "success": 0.0} for row in rows]
    estimates = {each: bootstrap([row[each] for row in rows], 50) for each in rows[0]}
    return Record(
        method, find_method(method).title,
        {"tasks": {"name": name, "source": source}, "seed": seed[0], "share": share},
        Measures(
            TASKS, estimates, {"Add_memory": 2.0, "Filter_context": 1.0}, 0.0,
            timing={"seconds": Estimate(1.5, 1.0, 2.0)},
        ),
        [{"task_id": f"t{i}", "task": score} for i, score in enumerate(scores)],
        "What it did.", tuple(rows) if with_rows else (),
    )  # fmt: skip


def _keep(folder, source, record) -> dict[str, str]:
    records = Records(folder)
    records.write(record)
    paths = records.paths(record.method, record.settings)
    events = [
        {"event": "ToolEvent", "name": name, "stage": stage}
        for name, stage in (("Add_memory", 1), ("Add_memory", 1), ("Filter_context", 2))
    ]
    lines = [
        {"index": i, "fault": None, "tools": ["Add_memory", "Filter_context"], "events": events}
        for i in range(TASKS)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / paths["episodes"]).write_text(text)
    return {"task_source": source, "method": record.method, **paths}
