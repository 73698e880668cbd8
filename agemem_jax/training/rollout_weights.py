"""The policy's weights on their way from the mesh of training to that of rollouts."""

import jax
from jax.sharding import Mesh

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.parallel import arrays, processes
from agemem_jax.training import train_state
from agemem_jax.training.train_state import TrainState


def rollout_weights(
    model: DecoderConfig,
    state: TrainState,
    mesh: Mesh | None,
    rollout_mesh: Mesh | None,
    as_trained: bool,
) -> Weights:
    """What the policy acts with, as this process's rollouts use it.

    Args:
      model: of the decoder.
      state: of training.
      mesh: of training; None for a single device, whose weights are used as they are.
      rollout_mesh: that of this process's rollouts; None for a single device.
      as_trained: whether the engine reads weights as they come; they are then cast to the
        dtypes in which it does.
    """
    weights = train_state.weights(state)
    if mesh is None:
        return weights
    dtypes = jax.tree.map(lambda x: x.dtype, weights)
    if as_trained:
        dtypes = decoder.read_dtypes(model, weights)
    if rollout_mesh is None:
        return jax.tree.map(lambda x, dtype: processes.own_part(x.astype(dtype)), weights, dtypes)
    shardings = train_state.weight_shardings(model, rollout_mesh)
    return arrays.to_rollout_mesh(rollout_mesh, weights, dtypes, shardings)
