"""The HTML of a report: everything escaped, nothing loaded, no more than it may hold."""

import base64
import gzip
import json
import re
import xml.etree.ElementTree

import pytest

from agemem_jax.report.contents import read
from agemem_jax.report.page import DEFAULT, Limits, page
from agemem_jax.report.write import write_report
from tests.report import builders


def blocks(text):
    packed = re.findall(r'<script type="text/plain" id="block-\d+">([^<]*)</script>', text)
    return [json.loads(gzip.decompress(base64.b64decode(each))) for each in packed]


def rows(text):
    held = json.loads(re.search(r'id="rows">(.*?)</script>', text, re.DOTALL)[1])
    return [dict(zip(held["columns"], each, strict=True)) for each in held["rows"]]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a run with samples and an evaluation, in which every text is an attack."""
    tmp_path = tmp_path_factory.mktemp("run")
    evil = [builders.played(number, evil=builders.EVIL) for number in range(3)]
    builders.train(tmp_path)
    builders.sample(tmp_path, 5, evil[:2], [[0.5] * 5, [-0.5] * 5])
    builders.evaluate(tmp_path, evil, weights=builders.EVIL)
    write_report(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def text(workdir):
    return (workdir / "report.html").read_text()


def test_no_text_of_a_trajectory_becomes_markup(text):
    assert rows(text)[0]["question"] == f"Where does Ana live?{builders.EVIL}"[:160]
    fragments = [html for block in blocks(text) for html in block]
    assert len(fragments) == 5
    for html in [re.sub(r'(?s)<script type="text/plain".*', "", text), *fragments]:
        assert "window.broken" in html and "<script>window" not in html
        assert "<img" not in html
    assert all("&lt;script&gt;window.broken" in html for html in fragments)


def test_the_file_loads_nothing_and_the_browser_is_told_so(text):
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:link|iframe|object|embed|base)\b", text)
    assert not re.search(r"\bsrc=[\"'](?!x )", re.sub(r"(?s)<script.*?</script>", "", text))
    assert "sourceMappingURL" not in text and "@import" not in text
    assert "The MIT License" in text, "the grid's licence goes with it"


def test_figures_are_inside_as_svg_and_beside_as_png(workdir, text):
    names = {each.stem for each in (workdir / "figures").iterdir()}
    assert {"rewards", "evaluations", "updates", "scores", "costs"} <= names
    drawn = re.findall(r"(?s)<svg [^>]*xmlns:xlink.*?</svg>", text)
    assert len(drawn) == len(names)
    ids = []
    for each in drawn:
        root = xml.etree.ElementTree.fromstring(each)
        ids += [element.get("id") for element in root.iter() if element.get("id")]
        assert "currentColor" in each, "its ink is that of the page"
    assert len(ids) == len(set(ids))
    for each in (workdir / "figures").iterdir():
        assert each.read_bytes().startswith(b"\x89PNG")
    assert not list(workdir.glob("*.tmp"))


def test_the_same_directory_gives_the_same_file(workdir, text):
    assert page(read(workdir), DEFAULT)[0] == text


def test_of_too_many_trajectories_some_of_all_are_in_the_file(tmp_path):
    played = [builders.played(number) for number in range(30)]
    builders.evaluate(tmp_path, played)
    text, _ = page(read(tmp_path), Limits(trajectories=10))
    assert [row["task"] for row in rows(text)] == [f"t-{number}" for number in range(0, 30, 3)]
    assert "10 of 30 trajectories are in this file" in text
    whole = sum(
        len(each)
        for each in re.findall(r'id="block-\d+">([^<]*)<', page(read(tmp_path), DEFAULT)[0])
    )
    text, _ = page(read(tmp_path), Limits(megabytes=whole / 2e6))
    assert 5 < len(rows(text)) < 20
    assert [len(block) for block in blocks(text)] == [len(rows(text))]


def test_a_size_that_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="megabytes above 0"):
        Limits(megabytes=0.0)


def test_a_run_without_trajectories_has_its_curves(tmp_path):
    builders.train(tmp_path)
    text, figures = page(read(tmp_path), DEFAULT)
    assert "No trajectory is stored here" in text and rows(text) == []
    assert [figure.name for figure in figures] == ["rewards", "evaluations", "behaviour", "updates"]


def test_tables_lead_to_the_trajectories_behind_them(text):
    (record,) = re.findall(r'href="#record=([^"]+)"', text)
    assert [row["record"] for row in rows(text)].count(record) == 3
    assert re.search(r"<td>3</td><td>66\.7 <span", text), "tasks, and J of two right answers in 3"
