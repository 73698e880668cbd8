"""What the documents tell a reader to type works, in a fresh clone with an empty home."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from agemem_jax.models import weights_cache
from agemem_jax.tasks.hotpotqa import builder
from agemem_jax.training.configuration import run_config
from tests import documented_commands
from tests.commands.command_line import parse
from tests.tasks.test_hotpotqa import make_row

ROOT = documented_commands.ROOT
COMMANDS = documented_commands.find()
# One that several documents have is run in the first of them; all of them share a clone.
KNOWN = [each for each in COMMANDS if each.rule and not each.rule.left_out]
FIRST = {each.small: each for each in reversed(KNOWN)}
RUN = [each for each in KNOWN if FIRST[each.small] is each and not each.rule.options_alone]


def test_every_command_is_run_or_says_why_not():
    assert len(COMMANDS) > 20
    assert [each for each in COMMANDS if each.rule is None] == []


def test_every_rule_is_about_some_command():
    used = {command.rule for command in COMMANDS}
    assert [rule for rule in documented_commands.RULES if rule not in used] == []


@pytest.mark.parametrize(
    "command", [each for each in KNOWN if each.rule.options_alone], ids=lambda each: each.text
)
def test_the_options_of_a_command_make_a_configuration(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command.text)
    first = next(n for n, word in enumerate(arguments) if word.startswith("--"))
    run_config.build(parse(*arguments[first:]))


def environment(home: pathlib.Path) -> dict[str, str]:
    """What a shell without any settings has, with this Python in front."""
    folders = (pathlib.Path(sys.executable).parent, "/usr/local/bin", "/usr/bin", "/bin")
    return {
        "PATH": os.pathsep.join(map(str, folders)),
        "HOME": str(home),
        "AGEMEM_VENV": "none",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiling takes longest
        # Models and compiled programs are fetched and made once, not for every test.
        "AGEMEM_CACHE": str(weights_cache.cache_directory()),
    }


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The files of this tree that git knows or would take, and data to train on."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    (folder / "hotpotqa").mkdir()
    official = (builder.TRAIN_FILE, builder.VALIDATION_FILE)
    for name in (*official, "hotpot_train_sample.json", "hotpot_dev_sample.json"):
        rows = [make_row(f"{name}-{number}") for number in range(4)]
        (folder / "hotpotqa" / name).write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize("document", sorted({command.document for command in RUN}))
def test_the_commands_of_a_document_work_one_after_the_other(clone, tmp_path, document):
    for command in (each for each in RUN if each.document == document):
        done = subprocess.run(
            ["bash", "-c", command.small], cwd=clone, env=environment(tmp_path),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, f"{command.small}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{command.small}\n{done.stderr}"
