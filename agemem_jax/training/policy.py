"""The policy of a training run, read back from its checkpoints."""

import os

import jax
from absl import logging
from etils import epath

from agemem_jax.models.decoder import Weights
from agemem_jax.models.loading import Backbone
from agemem_jax.training import curriculum, train_state
from agemem_jax.training.checkpoints import Checkpoints
from agemem_jax.training.run_config import RunConfig


def restore_weights(
    config: RunConfig, backbone: Backbone, workdir: str | os.PathLike, *, trained: bool = True
) -> Weights:
    """The weights that a run's policy acts with.

    Args:
      config: of the run.
      backbone: that the run started from.
      workdir: of the run.
      trained: the newest weights; otherwise those before reinforcement learning, which
        closed the warm-up, or are the backbone's own where there was none.

    Raises:
      ValueError: `trained`, and the run has no checkpoint.
    """
    fresh = train_state.create(
        backbone.config, backbone.params, config.optimizer,
        keep_reference=False, key=jax.random.key(config.seed),
    )  # fmt: skip
    checkpoints = Checkpoints(epath.Path(workdir) / "checkpoints", read_only=True)
    infos = checkpoints.all()
    if trained and not infos:
        raise ValueError(
            f"{checkpoints.directory} holds no checkpoint; train first, or ask for the weights "
            "before reinforcement learning."
        )
    if not trained:
        infos = [info for info in infos if info.phase == curriculum.WARMUP]
        if not infos:
            return train_state.weights(fresh)
    logging.info("Weights of %s", infos[0].path)
    trainable = checkpoints.restore_trainable(infos[0], fresh.trainable)
    return train_state.combine(trainable, fresh.frozen)
