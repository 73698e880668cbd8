"""Training as a function."""

import os

import ml_collections

from agemem_jax.library.configuring import built
from agemem_jax.training import program
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.interruption import Interruption


def train(
    config: str | os.PathLike | ml_collections.ConfigDict | RunConfig,
    workdir: str | os.PathLike,
    interruption: Interruption | None = None,
) -> None:
    """Trains an agent, or goes on where a run in `workdir` was interrupted.

    It is what `agemem-train` does. A run that is finished stays as it is.

    Args:
      config: a configuration by name, its file, or itself (`agemem_jax.config`).
      workdir: where checkpoints, metrics and reports are kept.
      interruption: by which a caller asks for a stop behind a save; Ctrl-C ends it at once without
        one.

    Raises:
      ValueError: the configuration is wrong, or another one was used in `workdir` before; nothing
        was loaded or written then.
      agemem_jax.training.interruption.Interrupted: it was stopped; the same call goes on.
    """
    program.train(built(config), workdir, interruption)
