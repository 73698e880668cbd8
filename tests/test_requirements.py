"""What the code imports is declared: in setup.cfg for a wheel, and pinned in requirements.txt."""

import ast
import configparser
import importlib.metadata
import pathlib
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parent.parent
# Declared although nothing here imports them, and why.
NOT_IMPORTED = {
    "array-record": "tensorflow-datasets writes HotpotQA into its files, where it is there",
    "importlib-resources": "tensorflow-datasets imports it, and does not ask for it",
    "jaxlib": "jax asks for a range; pinned only",
    "tensorboard": "shows the events of a run, by the command in README.md",
}
EXTRAS = {
    "benchmarks": "requirements-benchmarks.txt",
    "openenv": "requirements-openenv.txt",
    "serve": "requirements-serve.txt",
    "wandb": "requirements-wandb.txt",
}
OURS = {"agemem_jax", "experiments", "tests"}


def imported(source: str) -> set[str]:
    """Top-level modules that a text imports anywhere in it, functions included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - OURS


def distributions() -> dict[str, str]:
    """Distribution that each third-party import comes from, with one file that has it."""
    provided = importlib.metadata.packages_distributions()
    extras = {name for file in EXTRAS.values() for name in pinned(file)}
    found = {}
    for folder in ("agemem_jax", "experiments", "launch"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent.name == "peers":  # run in environments of their own
                continue
            for name in imported(path.read_text()):
                absent = name if canonicalize_name(name) in extras else f"of `import {name}`"
                (distribution,) = set(provided.get(name, [absent]))
                found[canonicalize_name(distribution)] = str(path.relative_to(ROOT))
    return found


def of_wheel(extra: str | None = None) -> dict[str, Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    if extra is not None:
        return named(config["options.extras_require"][extra].splitlines())
    return named(config["options"]["install_requires"].splitlines())


def pinned(name: str = "requirements.txt") -> dict[str, Requirement]:
    return named(line.split("#")[0] for line in (ROOT / name).read_text().splitlines())


def named(lines) -> dict[str, Requirement]:
    requirements = [Requirement(line.strip()) for line in lines if line.strip()]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def test_imports_inside_functions_and_by_name_are_found():
    text = """
import os, numpy.linalg as n
def later():
    from gguf import GGUFReader
    try:
        import torch
    except ImportError:
        importlib.import_module("tensorflow_datasets.core")
    from . import neighbour
    from agemem_jax.models import hub
"""
    assert imported(text) == {"numpy", "gguf", "torch", "tensorflow_datasets"}


@pytest.mark.parametrize("declared", [of_wheel, pinned], ids=["setup.cfg", "requirements.txt"])
def test_what_is_imported_is_declared(declared):
    known = declared().keys() | {n for file in EXTRAS.values() for n in pinned(file)}
    missing = {name: path for name, path in distributions().items() if name not in known}
    assert not missing


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_imported_by_nothing_but_the_part_that_it_is_for(extra):
    packages = set(pinned(EXTRAS[extra])) - set(pinned())
    assert packages and packages == set(of_wheel(extra)) - set(of_wheel())
    allowed = ("agemem_jax/environments/", "agemem_jax/tasks/", "agemem_jax/rewards/locomo_f1.py")
    if extra == "wandb":
        allowed = ("agemem_jax/training/monitoring/sinks/wandb.py",)
    if extra == "serve":
        allowed = (
            "agemem_jax/serving/server/", "agemem_jax/commands/serve_setup.py",
            "experiments/checks/server/",
        )  # fmt: skip
    for name, path in distributions().items():
        assert name not in packages or path.startswith(allowed), (name, path)


def test_what_is_declared_is_imported_or_has_a_reason():
    assert set(pinned()) - set(distributions()) == set(NOT_IMPORTED)


def test_both_files_declare_the_same():
    assert set(of_wheel()) == set(pinned()) - {"jaxlib"}


@pytest.mark.parametrize("file", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_versions_are_pinned_and_fit_what_the_wheel_asks_for(file):
    wanted = of_wheel()
    for name, requirement in pinned(file).items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        if name in wanted:
            assert wanted[name].specifier.contains(specifier.version), requirement


def test_all_files_name_one_version_of_jax_and_of_libtpu():
    files = [pinned(path.name) for path in ROOT.glob("requirements*.txt")]
    for name in ("jax", "libtpu"):
        versions = {str(file[name].specifier) for file in files if name in file}
        assert len(versions) == 1, versions
    assert pinned()["jax"].specifier == pinned()["jaxlib"].specifier
    for name in ("jax-cuda13-pjrt", "jax-cuda13-plugin"):
        assert pinned("requirements-dev.txt")[name].specifier == pinned()["jax"].specifier
