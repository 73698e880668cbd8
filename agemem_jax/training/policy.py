"""The policy of a training run, read back from its checkpoints."""

import os

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import PyTree

from agemem_jax.models import decoder
from agemem_jax.models.decoder import Weights
from agemem_jax.models.loading import Backbone
from agemem_jax.parallel import arrays
from agemem_jax.training import curriculum, train_state, warm_start
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.checkpoints.parts import CheckpointInfo
from agemem_jax.training.configuration.run_config import RunConfig


def restore_weights(
    config: RunConfig,
    backbone: Backbone,
    workdir: str | os.PathLike,
    *,
    trained: bool = True,
    checkpoint: str = "last",
    mesh: Mesh | None = None,
) -> Weights:
    """The weights that a run's policy acts with.

    Args:
      config: of the run.
      backbone: that the run started from. Where it was only opened, its parameters are read if
        they are needed, which those that full training has replaced are not.
      workdir: of the run.
      trained: the weights of `checkpoint`; otherwise those before reinforcement learning,
        which closed the warm-up, or those that the run began with where there was none: the
        backbone's own, or those of its warm start.
      checkpoint: see `CheckpointFolder.find`.
      mesh: of rollouts, on which the backbone's parameters are put; weights are split as
        they are, in the dtypes in which an engine reads them.

    Raises:
      ValueError: `trained`, and the run has no such checkpoint.
    """
    model = backbone.config

    def base() -> PyTree:
        return backbone.read_params() if backbone.params is None else backbone.params

    def as_read(weights: Weights) -> Weights:
        # What the engine rounds or stacks itself, it takes as it is; as in training.
        as_trained = mesh is not None and config.engine.weights in (None, "as_trained")
        return decoder.in_compute_dtype(model, weights) if as_trained else weights

    shardings = None if mesh is None else train_state.weight_shardings(model, mesh)
    checkpoints = _open(config, workdir)
    info = _choose(checkpoints, trained, checkpoint)
    part = decoder.abstract_lora(model) if model.lora_rank else decoder.abstract_params(model)
    if mesh is None:
        alone = SingleDeviceSharding(jax.local_devices()[0])
        where = jax.tree.map(lambda _: alone, part)
    else:
        where = shardings.lora if model.lora_rank else shardings.params
    template = arrays.abstract(part, where)
    if info is None and config.warm_start is None:

        def begin(params: PyTree) -> Weights:
            if not model.lora_rank:  # as masters are
                params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
            key = jax.random.key(config.seed)
            return as_read(train_state.first_weights(model, params, key=key))

        if mesh is not None:
            begin = jax.jit(begin, out_shardings=shardings)
        return begin(base())
    if info is None:
        trainable = warm_start.read_weights(config, model, template)
    else:
        logging.info("Weights of %s", info.path)
        trainable = checkpoints.restore_trainable(info, template)
    weights = train_state.combine(trainable, base() if model.lora_rank else None)
    return as_read(weights)


def describe_weights(
    config: RunConfig, workdir: str | os.PathLike, *, trained: bool, checkpoint: str = "last"
) -> str:
    """Which weights `restore_weights` gives.

    Returns:
      "backbone", what the run's `warm_start` names, or a checkpoint such as "joint/30".

    Raises:
      ValueError: `trained`, and the run has no such checkpoint.
    """
    info = _choose(_open(config, workdir), trained, checkpoint)
    return (config.warm_start or "backbone") if info is None else info.name


def _open(config: RunConfig, workdir: str | os.PathLike) -> Checkpoints:
    return Checkpoints(epath.Path(workdir) / "checkpoints", read_only=True, config=config)


def _choose(checkpoints: Checkpoints, trained: bool, name: str) -> CheckpointInfo | None:
    """The checkpoint whose weights are meant; None for what the run began with."""
    infos = checkpoints.all()
    if trained and not infos:
        raise ValueError(
            f"{checkpoints.directory} holds no checkpoint; train first, or ask for the weights "
            "before reinforcement learning."
        )
    if trained:
        return checkpoints.find(name)
    return next((info for info in infos if info.phase == curriculum.WARMUP), None)
