"""The site is built without a warning, and opens from its folder, without a network."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.docs.tree import ROOT
from tests.report import browser

BUILDER = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers", "mkdocs_autorefs")
PAGES = ("index", "tutorial", "options", "paper", "concepts/segments", "api/training")


def missing() -> list[str]:
    """Of what builds the site, the modules that are not installed."""
    return [name for name in BUILDER if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if missing():
        pytest.skip(f"{missing()[0]} is not installed; requirements-docs.txt brings it.")
    folder = tmp_path_factory.mktemp("site")
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))  # for ruff
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_it_loads_nothing_from_elsewhere(site):
    loads = re.compile(
        r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)=["']?(?:https?:)?//[^>]*"""
    )
    for page in site.rglob("*.html"):
        assert loads.findall(page.read_text()) == [], page


def test_the_api_pages_have_what_docstrings_say(site):
    text = (site / "api" / "training.html").read_text()
    assert 'id="agemem_jax.training.advantages.group_advantages"' in text
    assert "how much better a rollout did than its siblings" in text


def test_code_font_and_names_lead_to_the_api(site):
    text = (site / "paper.html").read_text()
    assert 'href="api/training.html#agemem_jax.training.loss.grpo_loss"' in text
    assert (
        'href="../api/rollout.html#agemem_jax.rollout.episode"'
        in (site / "concepts" / "stages.html").read_text()
    )


@pytest.mark.skipif(browser.CHROMIUM is None, reason=browser.WHY_NOT)
def test_pages_open_without_an_error_and_search_finds(site, tmp_path):
    with browser.chromium(tmp_path / "profile") as page:
        for name in PAGES:
            page.call("Page.navigate", url=(site / f"{name}.html").as_uri())
            page.wait_for("document.readyState === 'complete' && document.querySelector('h1')")
            broken = page.run("[...document.images].filter(each => !each.naturalWidth).length")
            assert broken == 0, name
        page.call("Page.navigate", url=(site / "index.html").as_uri())
        page.wait_for("document.readyState === 'complete' && document.querySelector('h1')")
        page.run("document.querySelector('[data-md-toggle=search]').click()")
        page.run(
            "(() => { const field = document.querySelector('[data-md-component=search-query]');"
            " field.value = 'filter_threshold'; field.focus();"
            " field.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})); })()"
        )
        page.wait_for("document.querySelector('.md-search-result__link')")
        assert "options.html" in page.run(
            "[...document.querySelectorAll('.md-search-result__link')].map(e => e.href).join()"
        )
        assert page.problems == []
        own = ("file:", "data:", "blob:")
        assert [each for each in page.requests if not each.startswith(own)] == []
