"""Shell scripts and the Dockerfile pass their linters."""

import pathlib
import subprocess
import sys

import pytest

from tests.launch.launching import ROOT

_BIN = pathlib.Path(sys.executable).parent
SCRIPTS = [
    path.relative_to(ROOT)
    for folder in (".ci", "launch", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and path.read_bytes().startswith((b"#!/usr/bin/env bash", b"# shellcheck"))
]


def test_all_shell_scripts_are_found():
    names = {str(path) for path in SCRIPTS}
    assert names >= {str(path.relative_to(ROOT)) for path in ROOT.glob("launch/*.sh")}


@pytest.mark.parametrize(
    "command",
    [["shellcheck", *map(str, SCRIPTS)], ["hadolint", "--no-color", "launch/Dockerfile"]],
    ids=lambda command: command[0],
)
def test_a_linter_finds_nothing(command):
    if not (_BIN / command[0]).exists():
        pytest.skip(f"{command[0]} comes with requirements-dev.txt, which is not installed.")
    result = subprocess.run(
        [_BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
