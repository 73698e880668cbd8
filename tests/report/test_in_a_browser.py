"""The report in a headless Chromium: no error, filters, what a step held, sizes and times."""

import pytest

from agemem_jax.report.write import write_report
from tests.report import browser, builders

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason=browser.WHY_NOT)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """40 evaluated trajectories, a group of three that was trained on, and one that is evil."""
    workdir = tmp_path_factory.mktemp("run")
    builders.train(workdir)
    group = [builders.played(0), builders.played(0, long=3), builders.played(1)]
    group[2].task = group[0].task
    builders.sample(workdir, 5, group, [[1.0] * 5, [-1.0] * 7, [0.5] * 5])
    builders.evaluate(workdir, [builders.played(number) for number in range(40)])
    builders.evaluate(workdir, [builders.played(2, evil=builders.EVIL)], "evil")
    return write_report(workdir)


@pytest.fixture(autouse=True)
def nothing_goes_wrong(tab):
    tab.problems.clear()
    tab.requests.clear()
    yield
    assert tab.problems == []
    assert all(each.startswith("file:") for each in tab.requests), "nothing from a network"


def count(tab, text):
    tab.wait_for(f"document.getElementById('count').value === '{text}'")


def choose(tab, **fields):
    for name, value in fields.items():
        tab.run(
            f"(() => {{ const f = document.forms[0].elements['{name}']; f.value = {value!r};"
            "f.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"reward_low": "1"}, 23), ({"reward_high": "0.5"}, 21), ({"j_high": "0"}, 21),
        ({"tool": "No_tool"}, 21), ({"tool": "Filter_context", "stage": "2"}, 44),
        ({"tool": "Filter_context", "stage": "1"}, 0), ({"failed": "calls"}, 21),
        ({"failed": "none"}, 23), ({"text": "NUMBER 39."}, 1), ({"text": "onerror='window"}, 1),
        ({"text": "rains there"}, 1), ({"record": "samples/5"}, 3),
        ({"record": "samples/5", "failed": "calls"}, 1), ({"stage": "2", "text": "no such"}, 0),
    ],
)  # fmt: skip
def test_filters_leave_what_they_say(tab, report, fields, left):
    tab.open(report)
    count(tab, "44 of 44")
    choose(tab, **fields)
    count(tab, f"{left} of 44")
    tab.run("document.forms[0].reset()")
    count(tab, "44 of 44")


def test_a_click_on_a_head_sorts_numbers_with_the_missing_last(tab, report):
    tab.open(report, "#record=samples/5")
    count(tab, "3 of 44")
    order = (
        "[...document.querySelectorAll('.tabulator-row [tabulator-field=advantage]')]"
        ".map((cell) => cell.textContent).join(' ')"
    )
    head = "document.querySelector('.tabulator-col[tabulator-field=advantage]').click()"
    tab.run(head)
    tab.wait_for(f"{order} === '-1.00 0.50 1.00'")
    tab.run(head)
    tab.wait_for(f"{order} === '1.00 0.50 -1.00'")


def test_a_step_shows_what_its_prompt_held(tab, report):
    tab.open(report, "#open=0")
    tab.wait_for("document.querySelector('#detail .steps')")
    classes = (
        "[...document.querySelectorAll('#detail .message')].map((m) => m.matches('.later') ? 'l' "
        ": m.matches('.gone.edited') ? 'e' : m.matches('.gone') ? 'g' : 'i').join('')"
    )
    assert tab.run(classes) == "iiiiiiiiii"
    for step, wanted in enumerate(["illlllllll", "iiilllllll", "ggggilllll", "ggggeiilll"]):
        tab.run(f"document.querySelector('[data-step=\"{step}\"]').click()")
        assert tab.run(classes) == wanted, step
    struck = "getComputedStyle(document.querySelector('#detail .edited .body')).textDecorationLine"
    assert tab.run(struck) == "line-through"
    assert "Filter_context" in tab.run("document.querySelector('#detail .gone-note').textContent")
    tab.run("document.querySelector('[data-go=all]').click()")
    assert tab.run(classes) == "iiiiiiiiii"


def test_the_rollouts_of_a_group_stand_side_by_side(tab, report):
    tab.open(report, "#record=samples/5")
    count(tab, "3 of 44")
    tab.run("document.querySelector('#table a').click()")
    tab.wait_for("document.querySelectorAll('#detail .pane').length === 1")
    assert tab.run("document.querySelectorAll('#detail .steps .plus').length") == 5
    tab.run("document.querySelector('#detail .actions button').click()")
    tab.wait_for("document.querySelectorAll('#detail .pane').length === 3")
    lefts = "[...document.querySelectorAll('.pane')].map((p) => p.getBoundingClientRect().left)"
    left = tab.run(lefts)
    assert left == sorted(left) and left[0] < left[-1]
    assert "open=" in tab.run("location.hash"), "a link leads here"


def test_text_of_a_trajectory_runs_nothing(tab, report):
    tab.open(report, "#text=onerror")
    count(tab, "1 of 44")
    tab.run("document.querySelector('#table a').click()")
    tab.wait_for("document.querySelector('#detail .trajectory')")
    assert tab.run("window.broken === undefined")
    assert not tab.run("document.querySelectorAll('#detail script, #detail img').length")
    assert "<script>" in tab.run("document.querySelector('#detail h3').textContent")


def test_it_can_be_read_in_the_dark_and_printed(tab, report):
    tab.open(report)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert tab.run(paper) == "rgb(255, 255, 255)"
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    tab.call("Emulation.setEmulatedMedia", features=dark)
    assert tab.run(paper) == "rgb(20, 23, 26)"
    tab.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert tab.run("getComputedStyle(document.getElementById('filters')).display") == "none"
    tab.call("Emulation.setEmulatedMedia", media="", features=[])
    assert len(tab.call("Page.printToPDF")["data"]) > 10_000


def test_everything_that_can_be_used_has_a_name(tab, report):
    tab.open(report, "#open=0")
    tab.wait_for("document.querySelector('#detail .steps')")
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    used = {"button", "link", "textbox", "searchbox", "spinbutton", "combobox", "image"}
    nameless = [
        node["role"]["value"] for node in nodes
        if not node["ignored"] and node["role"]["value"] in used
        and not node.get("name", {}).get("value")
    ]  # fmt: skip
    assert nameless == []


def test_five_hundred_trajectories_open_in_two_seconds_and_are_small(tab, tmp_path):
    played = [builders.played(number, long=30) for number in range(500)]
    builders.evaluate(tmp_path, played)
    path = write_report(tmp_path)
    assert path.stat().length < 20e6
    tab.open(path)
    count(tab, "500 of 500")
    # By the processor's time: the tests may share the machine with whatever is slow.
    before = tab.seconds_of_work()
    tab.call("Page.reload")
    tab.wait_for("document.documentElement?.dataset.ready === 'yes'")
    count(tab, "500 of 500")
    assert tab.seconds_of_work() - before < 2.0
