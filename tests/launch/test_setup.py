"""launch/setup.sh finds a Python that is new enough, or says which one is missing."""

import pathlib
import shutil
import stat
import sys

import pytest

from tests.launch.launching import ROOT, run

# Stands in for an interpreter: answers for its version, and makes an environment as venv does.
PYTHON = """#!/bin/bash
echo "$(basename "$0") $*" >> {log}
case "$*" in
  *"-m venv "*)
    {venv} || exit 1
    folder="${{!#}}"
    mkdir -p "$folder/bin"
    cp "$0" "$folder/bin/python"
    printf '#!/bin/bash\\necho "pip $*" >> {log}\\n' > "$folder/bin/pip"
    chmod +x "$folder/bin/pip" ;;
  *ensurepip*) {venv} ;;
  *"-m pip "*) {pip} ;;
  -VV) echo "Python {version}" ;;
  -c*) exec {real} -c "import sys; sys.version_info = {info} + ('final', 0); ${{2}}" ;;
esac
"""
UV = """#!/bin/bash
echo "uv $*" >> {log}
{python} -m venv "${{!#}}" && exit
echo "error: nothing could be fetched" >&2
exit 2
"""


class Machine:
    """A copy of the scripts, and a PATH with nothing but shell tools and stand-ins."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.log = folder, folder / "log"
        self.clone, self.bin, self.hidden = folder / "clone", folder / "bin", folder / "hidden"
        for each in (self.clone / "launch", self.bin, self.hidden):
            each.mkdir(parents=True)
        shutil.copy(ROOT / "launch" / "setup.sh", self.clone / "launch")
        for name in (".python-version", "requirements.txt", "setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.clone)
        for tool in ("bash", "basename", "cat", "cksum", "dirname", "mkdir", "mktemp", "rm", "cp",
                     "chmod", "env"):  # fmt: skip
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.log.touch()

    def write(self, path: pathlib.Path, text: str) -> pathlib.Path:
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def python(self, name: str, version: str, venv: bool = True, folder=None) -> pathlib.Path:
        info = tuple(int(part) for part in version.split("."))
        text = PYTHON.format(
            log=self.log, version=version, info=info, real=sys.executable,
            venv="true" if venv else "false", pip="true" if venv else "false",
        )  # fmt: skip
        return self.write((folder or self.bin) / name, text)

    def uv(self, folder=None, fetches: bool = True) -> pathlib.Path:
        python = self.python("python3.12", "3.12.1", folder=self.hidden)
        text = UV.format(log=self.log, python=python if fetches else "! true")
        return self.write((folder or self.bin) / "uv", text)

    def set_up(self, **changes):
        environment = {"PATH": str(self.bin), "HOME": str(self.folder)}
        script = ["bash", str(self.clone / "launch" / "setup.sh")]
        return run(script, environment | changes)

    @property
    def started(self) -> str:
        return self.log.read_text()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_python3_is_taken_if_it_is_new_enough(machine):
    machine.python("python3", "3.12.1")
    machine.python("python3.13", "3.13.0")
    result = machine.set_up()
    assert result.returncode == 0, result.stderr
    assert f"python3 -m venv {machine.clone}/.venv" in machine.started
    assert "pip install --quiet --disable-pip-version-check -r requirements.txt" in machine.started
    before = machine.started.count("pip install")
    assert machine.set_up().returncode == 0
    assert machine.started.count("pip install") == before, "nothing has changed"


@pytest.mark.parametrize("name, version", [("python3.12", "3.12.7"), ("python3.14", "3.14.0")])
def test_a_newer_one_beside_an_older_python3_is_taken(machine, name, version):
    machine.python("python3", "3.10.12")
    machine.python(name, version)
    result = machine.set_up()
    assert result.returncode == 0, result.stderr
    assert f"{name} -m venv {machine.clone}/.venv" in machine.started


def test_one_without_venv_is_passed_over(machine):
    machine.python("python3", "3.12.3", venv=False)
    machine.python("python3.13", "3.13.0")
    assert machine.set_up().returncode == 0
    assert f"python3.13 -m venv {machine.clone}/.venv" in machine.started


def test_otherwise_uv_brings_one(machine):
    machine.python("python3", "3.10.12")
    machine.uv()
    result = machine.set_up()
    assert result.returncode == 0, result.stderr
    assert f"uv venv --quiet --seed --python=3.12 {machine.clone}/.venv" in machine.started


def test_an_older_python_installs_uv_where_there_is_none(machine):
    """Into a folder of its own, which is gone afterwards."""
    uv = machine.uv(folder=machine.hidden)
    python = machine.python("python3", "3.10.12")
    copies = f'for i in "$@"; do case $i in --target=*) t="${{i#*=}}"; mkdir -p "$t/bin"; \
cp {uv} "$t/bin/uv"; echo "$t" > {machine.folder}/target ;; esac; done'
    machine.write(python, python.read_text().replace('*"-m pip "*) true', f'*"-m pip "*) {copies}'))
    result = machine.set_up(TMPDIR=str(machine.folder))
    assert result.returncode == 0, result.stderr
    assert f"uv venv --quiet --seed --python=3.12 {machine.clone}/.venv" in machine.started
    target = pathlib.Path((machine.folder / "target").read_text().strip())
    assert target.parent == machine.folder and not target.exists()


@pytest.mark.parametrize("uv", [False, True])
def test_a_machine_without_any_is_told_in_one_sentence(machine, uv):
    machine.python("python3", "3.10.12")
    if uv:
        machine.uv(fetches=False)
    result = machine.set_up()
    assert result.returncode == 1
    *of_uv, sentence = result.stderr.splitlines()
    assert of_uv == (["error: nothing could be fetched"] if uv else [])
    assert sentence == (
        "Error: agemem_jax needs Python 3.12 or newer; python3 is 3.10, no other one is on PATH, "
        "and uv could not bring one: install Python 3.12 with its venv, or name one by PYTHON=..."
    )
    assert not (machine.clone / ".venv").exists()


def test_the_one_that_is_named_is_taken_or_refused(machine):
    machine.python("python3", "3.12.1")
    machine.python("old", "3.11.9")
    machine.python("new", "3.13.0")
    refused = machine.set_up(PYTHON="old")
    assert refused.returncode == 1
    assert refused.stderr.endswith("Python 3.12 or newer; PYTHON=old is 3.11.\n")
    assert "PYTHON=nowhere is not there." in machine.set_up(PYTHON="nowhere").stderr
    assert machine.set_up(PYTHON="new").returncode == 0
    assert f"new -m venv {machine.clone}/.venv" in machine.started


def test_an_environment_of_an_older_python_is_made_anew(machine):
    machine.python("python3", "3.12.1")
    old = machine.clone / ".venv" / "bin"
    old.mkdir(parents=True)
    machine.python("python", "3.11.7", folder=old)
    (old / "left").touch()
    refused = machine.set_up()  # perhaps not ours to remove
    assert refused.returncode == 1 and "remove the folder" in refused.stderr
    assert (old / "left").exists()
    (machine.clone / ".venv" / ".installed").write_text("of an earlier time")
    result = machine.set_up()
    assert result.returncode == 0, result.stderr
    assert f"Making {machine.clone}/.venv anew: its Python is 3.11." in result.stdout
    assert not (old / "left").exists()
    assert "-r requirements.txt" in machine.started


def test_the_python_on_path_as_it_is_must_be_new_enough(machine):
    machine.python("python", "3.11.7")
    result = machine.set_up(AGEMEM_VENV="none")
    assert result.returncode == 1
    assert "Python 3.12 or newer; the one on PATH is 3.11." in result.stderr
    machine.python("python", "3.12.1")
    assert machine.set_up(AGEMEM_VENV="none").returncode == 0


def test_what_pyenv_and_uv_read_is_what_the_package_asks_for():
    oldest = (ROOT / ".python-version").read_text().strip()
    assert f"python_requires = >={oldest}" in (ROOT / "setup.cfg").read_text()
    assert f"FROM python:{oldest}-slim" in (ROOT / "launch" / "Dockerfile").read_text()
    assert f'"py{oldest.replace(".", "")}"' in (ROOT / "ruff.toml").read_text()
