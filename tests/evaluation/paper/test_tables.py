"""Tables and figures of stored records: every figure by hand, and the way to what is behind it."""

import csv
import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest
from scipy import stats

from agemem_jax.evaluation.paper import studies, tables, writing
from agemem_jax.evaluation.paper.plan import Plan
from agemem_jax.evaluation.paper.render import render
from agemem_jax.evaluation.paper.results import Results, columns
from tests.evaluation.paper.builders import TASKS, request, stored

EVERY = [name for name in studies.STUDIES if name != "table5"]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A work directory with everything that all studies need, and all of them rendered."""
    workdir = tmp_path_factory.mktemp("paper")
    plan = stored(
        workdir, EVERY, train_methods=("no_memory",), distractors=(0, 2), thetas=(0.5, 0.6),
        quality=lambda variant, method, seed: min(
            1.0, (0.9 if "agemem" == method else 0.3) - 0.1 * seed
        ),
    )  # fmt: skip
    return workdir / "paper", render(workdir / "paper", [plan], EVERY)


def column(table, head):
    place = list(table.head).index(head)
    return {tuple(row[: table.labels]): row[place] for row in table.rows}


def test_table_2_has_a_row_for_each_method_and_a_mean_over_seeds_with_students_interval(rendered):
    table = rendered[1]["table2"]
    assert list(table.head) == ["backbone", "method", "multihop", "BabyAI", "PDDL", "average"]
    assert [row[1] for row in table.rows] == [
        "No-Memory", "AgeMem-noRL", "AgeMem", "No-Memory + RL",
    ]  # fmt: skip
    cell = column(table, "BabyAI")["tiny", "AgeMem"]
    values = [cell.seeds[seed] for seed in (0, 1, 2)]
    np.testing.assert_allclose(values, [0.9, 0.8, 0.7], atol=0.03)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose([cell.estimate.low, cell.estimate.high], expected)
    assert cell.best and not column(table, "BabyAI")["tiny", "AgeMem-noRL"].best
    average = column(table, "average")["tiny", "AgeMem"]
    three = [column(table, each)["tiny", "AgeMem"] for each in ("multihop", "BabyAI", "PDDL")]
    assert average.seeds[1] == pytest.approx(np.mean([each.seeds[1] for each in three]))
    assert average.tasks == 3 * TASKS


def test_a_reader_goes_from_a_figure_to_the_record_and_the_trajectories(rendered):
    folder, _ = rendered
    for name in EVERY:
        behind = json.loads((folder / f"{name}.json").read_text())
        known = [each for each in behind["cells"] if each["mean"] is not None]
        assert known, name
        for cell in known:
            assert cell["sources"], (name, cell)
            for source in cell["sources"]:
                assert json.loads((folder / source["record"]).read_text())["measures"]
                assert (folder / source["episodes"]).read_text().count("\n") == TASKS
                assert (folder / source["shown"]).read_text() == "What it did."
        for link in re.findall(r'href="([^"]+)"', (folder / f"{name}.html").read_text()):
            assert (folder / link).is_file(), link
    for link in re.findall(r'(?:href|src)="([^"]+)"', (folder / "index.html").read_text()):
        assert (folder / link).is_file(), link


def test_every_study_is_written_in_every_form(rendered):
    folder, made = rendered
    for name in EVERY:
        assert (folder / f"{name}.md").read_text().startswith(f"## {studies.STUDIES[name].title}")
        rows = list(csv.reader((folder / f"{name}.csv").open()))
        assert len(rows) == 1 + len(made[name].rows) and len({len(row) for row in rows}) == 1
        text = (folder / f"{name}.tex").read_text()
        assert text.count(r"\\") == 1 + len(made[name].rows), "a line for the head and each row"
        assert text.count("{") == text.count("}")
        if name not in ("table2", "tests", "table4"):
            xml.etree.ElementTree.parse(folder / f"{name}.svg")
            assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_figure_is_bold_and_intervals_stand_beside_the_mean(rendered):
    folder, _ = rendered
    text = (folder / "table2.md").read_text()
    assert re.search(r"\| AgeMem \| \*\*80\.0 ± 24\.8\*\* \|", text), text
    assert r"\textbf{80.0 $\pm$ 24.8}" in (folder / "table2.tex").read_text()


def test_figure_4_takes_each_part_from_the_variant_that_has_it(rendered):
    table = rendered[1]["figure4"]
    assert [row[1] for row in table.rows] == ["Base", "+LT", "+LT/RL", "+LT/ST/RL"]
    records = [row[2].sources[0]["record"] for row in table.rows]
    folders = [re.search(r"runs/(\w+)/0/evaluation/(\w+)-", each).groups() for each in records]
    assert folders == [
        ("agemem", "no_memory"), ("long_term_only", "agemem_norl"), ("long_term_only", "agemem"),
        ("agemem", "agemem"),
    ]  # fmt: skip


def test_table_3_tells_the_stages_of_the_calls(rendered):
    table = rendered[1]["table3"]
    row = next(row for row in table.rows if row[1:3] == ["multihop", "Add_memory"])
    assert [writing.text(cell) for cell in row[3:]] == [
        "2.00 ± 0.00", "2.00 ± 0.00", "2.00 ± 0.00", "0.00 ± 0.00", "0.00 ± 0.00",
    ]  # fmt: skip
    total = next(row for row in table.rows if row[1:3] == ["multihop", "all calls"])
    assert total[4].estimate.mean == 3.0 and total[6].estimate.mean == 1.0


def test_tests_compare_every_method_with_the_trained_one_on_the_same_tasks(rendered):
    table = rendered[1]["tests"]
    assert {row[3] for row in table.rows} == {"No-Memory", "AgeMem-noRL", "No-Memory + RL"}
    assert all(row[4].estimate.mean > 0 and float(row[-2]) < 0.05 for row in table.rows)
    assert all(float(row[-2]) <= float(row[-1]) for row in table.rows)


def test_what_is_not_stored_is_a_dash_and_the_rest_is_there(tmp_path):
    plan = stored(tmp_path, ("table2",), seeds=(0, 1))
    for path in (tmp_path / "runs").rglob("no_memory-*.json"):
        path.unlink()
    table = render(tmp_path / "paper", [plan], ["table2"])["table2"]
    assert [writing.text(cell) for cell in table.rows[0][2:]] == ["–"] * 4
    assert writing.text(table.rows[2][2]) == "80.0 ± 0.0"


def test_one_seed_has_the_interval_over_its_tasks(tmp_path):
    plan = stored(tmp_path, ("table2",), seeds=(4,))
    (row,) = [row for row in tables.table2([Results(plan)]).rows if row[1] == "AgeMem"]
    assert row[2].estimate.low < 0.8 < row[2].estimate.high
    # Of independent benchmarks the average is surer than each.
    width = [cell.estimate.high - cell.estimate.low for cell in row[2:]]
    assert 0 < width[-1] < min(width[:-1])


def test_the_rows_of_another_backbone_stand_below(tmp_path):
    first = stored(tmp_path / "one", ("table2", "table4"), seeds=(0, 1))
    stored(tmp_path / "two", ("table2", "table4"), seeds=(0, 1))
    path = tmp_path / "two" / "plan.json"
    path.write_text(path.read_text().replace('"tiny"', '"large_1"'))
    plans = [first, Plan.read(tmp_path / "two")]
    made = render(tmp_path / "one" / "paper", plans, ["table2", "table4", "table5"])
    assert [row[0] for row in made["table2"].rows] == ["tiny"] * 3 + ["large_1"] * 3
    assert sum(cell.best for _, head, cell in made["table2"].cells() if head == "PDDL") == 2
    assert {row[0] for row in made["table4"].rows} == {"tiny"}
    assert {row[0] for row in made["table5"].rows} == {"large_1"}
    text = (tmp_path / "one" / "paper" / "table2.tex").read_text()
    assert r"large\_1" in text and text.count(r"\midrule") == 2
    source = made["table2"].rows[-1][2].sources[0]
    assert (tmp_path / "one" / "paper" / source["record"]).resolve().is_file()


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = stored(tmp_path, ("table2", "theta", "distractors"), seeds=(0,))
    assert Plan.read(tmp_path) == plan
    with pytest.raises(FileNotFoundError, match="no work directory of agemem-reproduce"):
        Plan.read(tmp_path / "runs")


def test_what_was_asked_for_before_is_still_known_behind_a_command_for_something_else(tmp_path):
    first = stored(tmp_path, ("theta", "distractors"), seeds=(0,), distractors=(0, 2))
    second = stored(tmp_path, ("table2",), seeds=(0,))
    assert second.thetas == {}
    known = Plan.read(tmp_path)
    assert (known.thetas, known.distractors) == (first.thetas, first.distractors)


def test_a_study_of_which_nothing_is_there_yet_is_an_empty_table_and_picture(tmp_path):
    plan = Plan.make(tmp_path, request(), ("table2",), (0, 1))
    made = {name: tables.MAKE[name]([Results(plan)]) for name in EVERY}
    made |= render(tmp_path / "paper", [plan], ["theta", "costs"])
    assert all(cell.estimate is None for table in made.values() for _, _, cell in table.cells())
    assert made["theta"].rows == [] == made["tests"].rows
    assert (tmp_path / "paper" / "theta.png").is_file()


def test_rendering_again_gives_the_same_files_to_the_byte(rendered, tmp_path):
    folder, _ = rendered
    plan = Plan.read(folder.parent)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    render(folder, [plan], ["table2", "figure2"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_benchmarks_of_one_source_are_told_apart():
    assert columns(["hotpotqa(max_words=3)", "alfworld"]) == ["HotpotQA", "ALFWorld"]
    assert columns(["pddl(size=3)", "pddl(size=4)"]) == ["PDDL size=3", "PDDL size=4"]
