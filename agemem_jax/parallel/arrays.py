"""Arrays onto meshes: training state, batches, and the weights that rollouts use."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from agemem_jax.parallel import rules


def abstract(tree: PyTree, shardings: PyTree) -> PyTree:
    """Shapes and dtypes of arrays, or of shapes, with where each one goes."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree, shardings,
    )  # fmt: skip


def delete(tree: PyTree) -> None:
    """Frees arrays now, whoever holds them; what is computed from them already goes on."""
    for x in jax.tree.leaves(tree):
        if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
            x.delete()


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Arrays that every process holds whole, each device's part on it."""

    return jax.tree.map(_place, tree, shardings)


def replicate_rest(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Puts on every device what is not on the mesh yet: counters and keys."""
    if mesh is None:
        return tree
    everywhere = rules.replicated(mesh)

    def one(x):
        there = isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh
        return x if there else _place(x, everywhere)

    return jax.tree.map(one, tree)


def _place(x: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _place(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def place_rows(mesh: Mesh | None, tree: PyTree, axis: int) -> PyTree:
    """Rows that each process has made itself, one process's behind the other's.

    Args:
      mesh: of training.
      tree: numpy arrays whose `axis` counts this process's rows; scalars, and arrays that
        have no such axis, must be the same everywhere.
      axis: the one that devices split.
    """
    if mesh is None:
        return tree
    count = jax.process_count()

    def one(x):
        x = np.asarray(x)
        if x.ndim <= axis + 1:
            return jax.make_array_from_callback(
                x.shape, rules.replicated(mesh), lambda index: x[index]
            )
        spec = PartitionSpec(*[None] * axis, rules.BATCH)
        shape = (*x.shape[:axis], x.shape[axis] * count, *x.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), x, shape)

    return jax.tree.map(one, tree)


def to_rollout_mesh(mesh: Mesh, tree: PyTree, dtypes: PyTree, shardings: PyTree) -> PyTree:
    """Weights of the training mesh, a copy of them for this process.

    One array after the other, so that of what is only on its way there is never more than one.

    Args:
      mesh: that of this process's rollouts.
      tree: arrays on the training mesh.
      dtypes: in which each one is wanted.
      shardings: where each array goes on `mesh`.
    """
    count = jax.process_count()
    if count == 1:
        return jax.tree.map(
            lambda x, dtype, sharding: jax.device_put(x.astype(dtype), sharding),
            tree, dtypes, shardings,
        )  # fmt: skip
    # The same layout for every process at once, so that one call moves an array for all; then
    # each takes its own part.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    shape, names = mesh.devices.shape, mesh.axis_names
    axis_types = (jax.sharding.AxisType.Auto,) * (len(names) + 1)
    everyone = Mesh(
        np.array(devices).reshape(count, *shape), ("process", *names), axis_types=axis_types
    )

    def one(x, dtype, sharding):
        x = jax.device_put(x.astype(dtype), NamedSharding(everyone, sharding.spec))
        own = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, own)

    return jax.tree.map(one, tree, dtypes, shardings)
