"""What is done about a GPU before anything runs on it."""

import glob
import logging
import os
import types
from fnmatch import fnmatch

import jax
import pytest

from agemem_jax.commands import accelerator


@pytest.fixture
def machine(monkeypatch):
    """Of which JAX sees the CPU, though nobody has asked it to."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(type(jax.config), "jax_platforms", None, raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    return monkeypatch


def told(caplog):
    with caplog.at_level(logging.WARNING):
        accelerator.tell_unused_gpu()
    return caplog.text


def test_a_gpu_that_jax_does_not_use_is_told_with_what_to_install(machine, caplog):
    machine.setattr(glob, "glob", lambda pattern: ["/dev/nvidia0"] if "/dev/" in pattern else [])
    text = told(caplog)
    assert f'pip install "jax[cuda13]=={jax.__version__}"' in text and "\n" not in text.strip()


def test_a_machine_without_one_is_told_nothing(machine, caplog):
    machine.setattr(glob, "glob", lambda pattern: [])
    assert not told(caplog)


def test_who_asked_for_the_cpu_is_told_nothing(machine, caplog):
    machine.setenv("JAX_PLATFORMS", "cpu")
    machine.setattr(glob, "glob", lambda pattern: ["/dev/nvidia0"])
    assert not told(caplog)


def test_the_level_of_autotuning_is_handed_to_xla_beside_what_is_there(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=somewhere")
    monkeypatch.setattr(accelerator, "_AUTOTUNE_LEVEL", types.SimpleNamespace(value=1))
    accelerator.prepare()
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=somewhere --xla_gpu_autotune_level=1"


@pytest.mark.parametrize("there, platforms", [("/dev/none", "cpu"), ("/dev/accel0", None)])
def test_only_a_machine_that_shows_an_accelerator_is_searched_for_one(
    machine, monkeypatch, there, platforms
):
    told = []
    monkeypatch.setattr(accelerator, "_AUTOTUNE_LEVEL", types.SimpleNamespace(value=None))
    monkeypatch.setattr(jax.config, "update", lambda *option: told.append(option))
    machine.setattr(glob, "glob", lambda pattern: [there] if fnmatch(there, pattern) else [])
    accelerator.prepare()
    assert told == ([("jax_platforms", platforms)] if platforms else [])
