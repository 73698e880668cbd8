"""Every configuration file builds, so that its options exist and do not contradict.

They are found where they were before they came with the package, through a link.
"""

import importlib.util
import pathlib

import pytest

from agemem_jax import configs
from agemem_jax.configs import quickstart as configs_quickstart
from agemem_jax.training.configuration import run_config

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


def test_the_folder_of_a_clone_is_that_of_the_package():
    assert FOLDER.is_symlink() and not FOLDER.readlink().is_absolute()
    assert FOLDER.resolve() == configs.FOLDER
    assert {path.stem for path in FILES} == set(configs.FILES)


def test_configurations_are_imported_from_a_clone_as_before():
    from experiments.configs import quickstart

    assert quickstart.get_config().to_dict() == configs_quickstart.get_config().to_dict()
