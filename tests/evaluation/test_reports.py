"""What people look at."""

import csv
import dataclasses
import io
import json

from rich.console import Console

from agemem_jax.evaluation import reports
from agemem_jax.evaluation.metrics import Measures
from agemem_jax.evaluation.records import Record
from agemem_jax.rewards.estimates import Estimate
from agemem_jax.rewards.total import Reward
from agemem_jax.rewards.trajectory_markdown import render_trajectories
from agemem_jax.rollout.tools.registry import TOOL_NAMES
from tests.rewards.builders import answer, trajectory


def measures(mean: float) -> Measures:
    estimate = Estimate(mean, mean - 0.1, mean + 0.1)
    return Measures(
        tasks=200,
        estimates={
            **dict.fromkeys(("j", "mq", "r_context", "r_memory", "r_penalty", "reward"), estimate),
            "tn": Estimate(8123.0, 8000.0, 8200.0),
        },
        tc=dict.fromkeys(TOOL_NAMES, 11.25),
        failed_calls=0.0,
    )  # fmt: skip


RESULTS = {"AgeMem-noRL-RAG": measures(0.25), "AgeMem": measures(0.5)}


def test_tables_fit_a_terminal_of_80_columns_without_cutting_anything():
    console = Console(width=80, file=io.StringIO())
    for table in reports.render_tables(RESULTS, "hotpotqa validation, smollm2-135m, seed 0"):
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert "50.0 [40.0, 60.0]" in text
    for word in ("AgeMem-noRL-RAG", "J", "MQ", "R_memory", "TN", "Retrieve", "Summary", "8123"):
        assert word in text
    assert "67.50" in text  # six tools


def test_every_table_of_many_methods_and_tools_fits_a_terminal(tmp_path):
    names = ("memory_entries", "memory_junk", "memory_distractors", "memory_duplicates",
             "memory_stale", "memory_contradictions", "memory_left", "unasked_trimmed",
             "accepts_wrong_offline", "em", "f1", "context_share")  # fmt: skip
    wide = measures(0.5)
    estimates = wide.estimates | dict.fromkeys(names, Estimate(0.25, 0.2, 0.3))
    judged_by = {"model": None, "prompts": {"offline": {"id": "rule", "text": "F1"}}}
    wide = dataclasses.replace(
        wide, estimates=estimates, judged_by=judged_by, tc=dict.fromkeys("ABCDEFGHIJ", 1.0),
        categories={"bridge": estimates, "comparison": estimates},
    )  # fmt: skip
    results = {f"AgeMem-noRL-RA{n}": wide for n in range(10)}
    console = Console(width=80, file=io.StringIO())
    for table in reports.render_tables(results, "title"):
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    for head in ("accepts wrong", "left by deletion %", "contradictions %", "trimmed", "EM"):
        assert head in text, head


def test_parts_and_contexts_have_intervals_and_say_over_how_many_tasks(tmp_path):
    names = ("part_compression", "part_preventive", "part_preservation", "part_maintenance")
    plays = ("context_share", "context_share_max", "idle_edits", "failed_share", "format_errors")
    estimates = dict.fromkeys((*names, *plays), Estimate(0.25, 0.2, 0.3))
    one = dataclasses.replace(RESULTS["AgeMem"], estimates=RESULTS["AgeMem"].estimates | estimates)
    one = dataclasses.replace(one, counts={"part_preventive": 12, "idle_edits": 91})
    console = Console(width=80, file=io.StringIO())
    for table in reports.render_tables({"AgeMem-noRL-RAG": one, "AgeMem": one}, "title"):
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert text.count("0.250 [0.20, 0.30]") == 2 * 5 and text.count("25.0 [20.0, 30.0]") == 2 * 4
    told = " ".join(text.split())
    assert (
        "preventive over 12 tasks of AgeMem-noRL-RAG; preventive over 12 tasks of AgeMem." in told
    )
    assert "idle edits over 91 tasks of AgeMem." in told
    reports.write_results(tmp_path, [Record("agemem", "AgeMem", {}, one)])
    (row,) = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert row["part_preventive"] == {"mean": 0.25, "low": 0.2, "high": 0.3}
    assert row["counts"] == {"part_preventive": 12, "idle_edits": 91}
    with (tmp_path / "evaluation.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["part_preventive.low"], row["counts.part_preventive"]) == ("0.2", "12")


def test_a_part_that_was_not_at_stake_is_left_out_of_what_is_read():
    reward = Reward(0.5, {"context": 0.5}, {"compression": 0.5, "preventive": None})
    text = render_trajectories([(trajectory(answer()), reward)])
    assert "Reward: total 0.50, context 0.50, compression 0.50." in text


def test_results_are_written_for_programs_as_well(tmp_path):
    records = [
        Record("agemem_norl_rag", "AgeMem-noRL-RAG", {"temperature": 1.0}, measures(0.25)),
        Record("agemem", "AgeMem", {"temperature": 0.0, "weights": "joint/30"}, measures(0.5)),
    ]
    reports.write_results(tmp_path, records)
    first, second = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert first["method"] == "agemem_norl_rag" and first["settings"] == {"temperature": 1.0}
    assert second["j"] == {"mean": 0.5, "low": 0.4, "high": 0.6}
    with (tmp_path / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["title"] for row in rows] == list(RESULTS)
    assert [row["settings.weights"] for row in rows] == ["", "joint/30"]
    assert float(rows[1]["j.mean"]) == 0.5 and float(rows[1]["tc.Add_memory"]) == 11.25
    assert (
        "## AgeMem, temperature 0.0, weights joint/30" in (tmp_path / "trajectories.md").read_text()
    )


def test_tables_and_files_say_how_many_episodes_failed(tmp_path):
    console = Console(width=80, file=io.StringIO())
    failing = RESULTS | {"AgeMem": dataclasses.replace(RESULTS["AgeMem"], failed=3)}
    for results in (RESULTS, failing):
        console.print(reports.render_tables(results, "title")[0])
    text = console.file.getvalue()
    assert text.count("failed") == 1, "where none failed there is nothing to say"
    assert "Episodes that failed and are left out: 3 of AgeMem." in " ".join(text.split())
    records = [Record(title.lower(), title, {}, measures) for title, measures in failing.items()]
    reports.write_results(tmp_path, records)
    written = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert [row["failed"] for row in written] == [0, 3]
    with (tmp_path / "evaluation.csv").open() as file:
        assert [row["failed"] for row in csv.DictReader(file)] == ["0", "3"]
