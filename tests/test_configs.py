"""Every configuration file builds, so that its options exist and do not contradict."""

import importlib.util
import pathlib

import pytest

from agemem_jax.training import run_config

FOLDER = pathlib.Path(__file__).parent.parent / "experiments" / "configs"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_builds(path):
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    if config.judge.kind == "llm":  # the endpoint is the user's to name
        config.judge.base_url, config.judge.model = "http://localhost:1", "judge"
    assert run_config.build(config)
    assert f"--config=experiments/configs/{path.name}" in module.__doc__ or path.name == "tiny.py"
