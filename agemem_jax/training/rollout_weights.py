"""The weights of training on the devices of rollouts."""

import jax
from jax.sharding import Mesh

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.parallel import arrays, processes
from agemem_jax.rollout.generation import EngineConfig
from agemem_jax.training import train_state


def rollout_weights(
    weights: Weights,
    model: DecoderConfig,
    engine: EngineConfig,
    mesh: Mesh | None,
    rollout_mesh: Mesh | None,
) -> Weights:
    """A policy's weights, as one process's rollouts use them; all processes must call this.

    Args:
      weights: as they are trained, on `mesh`.
      model: of the decoder.
      engine: of rollouts.
      mesh: of training; None for a single device, where weights are used as they are.
      rollout_mesh: of this process's rollouts; None for its only device.
    """
    if mesh is None:
        return weights
    dtypes = jax.tree.map(lambda x: x.dtype, weights)
    if engine.weights == "as_trained":
        dtypes = decoder.read_dtypes(model, weights)
    if rollout_mesh is None:
        return jax.tree.map(lambda x, dtype: processes.own_part(x.astype(dtype)), weights, dtypes)
    shardings = train_state.weight_shardings(model, rollout_mesh)
    return arrays.to_rollout_mesh(rollout_mesh, weights, dtypes, shardings)
