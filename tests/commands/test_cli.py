"""What the programs have in common: help, version, and wrong flags in one sentence."""

import configparser
import importlib
import sys

import pytest
from absl import flags

import agemem_jax
from agemem_jax.commands import cli
from tests.test_requirements import ROOT

_CONFIG = configparser.ConfigParser()
_CONFIG.read(ROOT / "setup.cfg")
COMMANDS = dict(
    line.split(" = ")
    for line in _CONFIG["options.entry_points"]["console_scripts"].strip().splitlines()
)


@pytest.fixture(autouse=True)
def one_program(monkeypatch):
    """Programs have flags of the same names, of which a process elsewhere runs but one.

    What a test imports first is forgotten with its flags, so that who imports it next has both.
    """
    imported = set(sys.modules)
    known = {name: flags.FLAGS[name] for name in flags.FLAGS}
    modules = {name: flags.FLAGS.find_module_defining_flag(name) for name in known}
    ids = {name: flags.FLAGS.find_module_id_defining_flag(name) for name in known}
    for flag in known.values():
        monkeypatch.setattr(flag, "allow_override", True)
    yield
    package = importlib.import_module("agemem_jax.commands")
    for name in set(sys.modules) - imported:
        if name.startswith(f"{package.__name__}."):
            delattr(package, sys.modules.pop(name).__name__.rpartition(".")[2])
    for name in set(flags.FLAGS):
        if name not in known:
            delattr(flags.FLAGS, name)
    for name, flag in known.items():
        if flags.FLAGS[name] is not flag:
            flag.allow_override, flags.FLAGS[name] = True, flag
            flags.FLAGS.register_flag_by_module(modules[name], flag)
            flags.FLAGS.register_flag_by_module_id(ids[name], flag)


def start(monkeypatch, *arguments, name="agemem-train"):
    monkeypatch.setattr("sys.argv", [f"/somewhere/bin/{name}", *arguments])
    monkeypatch.setattr(cli, "leave", sys.exit)
    module, function = COMMANDS[name].split(":")
    getattr(importlib.import_module(module), function)()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_no_flag_and_shows_how_the_command_is_called(name, monkeypatch, capsys):
    start(monkeypatch, "--help", name=name)
    shown = capsys.readouterr().out
    module = importlib.import_module(COMMANDS[name].split(":")[0])
    assert shown.startswith(module.__doc__.splitlines()[0])
    assert f"    {name}" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_help_shows_our_flags_and_not_those_of_libraries(monkeypatch, capsys):
    start(monkeypatch, "--config=nowhere", "-h")
    shown = capsys.readouterr().out
    for flag in ("--config:", "--workdir:", "--[no]distributed:"):
        assert f"  {flag}" in shown
    assert "quickstart, qwen2.5_7b_hotpotqa" in " ".join(shown.split())
    assert "--verbosity" not in shown and "--pdb" not in shown


def test_help_behind_two_dashes_is_an_argument(monkeypatch):
    with pytest.raises(SystemExit, match="wrong flag"):
        start(monkeypatch, "--no_such_flag", "--", "--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_version_is_that_of_the_package(name, monkeypatch, capsys):
    start(monkeypatch, "--version", name=name)
    assert capsys.readouterr().out == f"agemem_jax {agemem_jax.__version__}\n"


def test_the_version_is_written_once():
    assert _CONFIG["metadata"]["version"] == "attr: agemem_jax.__version__"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_clone_has_a_file_for_every_command(name):
    module = COMMANDS[name].split(":")[0]
    scripts = [path.read_text() for path in (ROOT / "experiments").glob("*.py")]
    assert sum(f"from {module} import main, run\n" in text for text in scripts) == 1


def test_a_wrong_flag_is_one_sentence(monkeypatch):
    monkeypatch.setattr("sys.argv", ["program", "--wrokdir=x"])
    with pytest.raises(SystemExit) as ended:
        cli._parse(["program", "--wrokdir=x"])
    assert str(ended.value).startswith("Error: wrong flag or config file: Unknown command line")
    assert "\n" not in str(ended.value)
