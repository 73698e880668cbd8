"""Configurations from Python, as the programs take them by --config."""

import os

import ml_collections

from agemem_jax import configs
from agemem_jax.training.configuration import run_config
from agemem_jax.training.configuration.run_config import RunConfig


def config(name: str | os.PathLike = "quickstart") -> ml_collections.ConfigDict:
    """A configuration to change, option by option: `config.curriculum.iterations = (10,)`.

    An option that does not exist is refused when it is set, and a wrong value when the
    configuration is used.

    Args:
      name: of one that comes with the package ("quickstart", "tiny", "smollm2_hotpotqa" and the
        others of `agemem_jax.configs.FILES`), or the path of a file with a `get_config`.

    Raises:
      FileNotFoundError: there is neither.
    """
    return configs.load(name).lock()


def built(config: str | os.PathLike | ml_collections.ConfigDict | RunConfig) -> RunConfig:
    """The validated configuration, whichever way it was given.

    Raises:
      FileNotFoundError: it was given by a name, and there is none.
      ValueError: an option has a wrong value, in one sentence.
    """
    if isinstance(config, RunConfig):
        return config
    if not isinstance(config, ml_collections.ConfigDict):
        config = configs.load(config)
    return run_config.build(config)
