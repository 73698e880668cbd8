"""Several processes that run one job: how they find, tell and wait for each other.

Everything here works with a single process as well, and costs nothing there.
"""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

_SHORTEST = 1024  # bytes that travel at least


def initialize(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    heartbeat_timeout: int,
) -> None:
    """Joins this process to its job. Must come before anything that touches a device.

    Args:
      coordinator: "host:port" of process 0; None where Slurm, a TPU pod or Kubernetes tells.
      num_processes, process_id: likewise.
      heartbeat_timeout: seconds of silence after which a process counts as dead; the others
        then end, too.

    Raises:
      ValueError: only some of the three are given, or no cluster was found.
    """
    given = (coordinator is not None, num_processes is not None, process_id is not None)
    if any(given) and not all(given):
        raise ValueError(
            "--coordinator, --num_processes and --process_id belong together: give all of them, "
            "or none where Slurm, Cloud TPU or Kubernetes starts the processes."
        )
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=heartbeat_timeout,
        )  # fmt: skip
    except ValueError as error:
        if any(given):
            raise
        raise ValueError(
            "--distributed found no cluster: it knows Slurm, Cloud TPU pods and Kubernetes. "
            "Elsewhere give --coordinator, --num_processes and --process_id."
        ) from error


def is_primary() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """What every process gave, by process; all of them must call this. Values fit for JSON."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    # Few different lengths: each is a program of its own.
    padded = np.zeros(max(_SHORTEST, 1 << int(lengths.max() - 1).bit_length()), np.uint8)
    padded[: len(text)] = text
    texts = multihost_utils.process_allgather(padded)
    return [
        json.loads(bytes(row[:length]).decode())
        for row, length in zip(texts, lengths.tolist(), strict=True)
    ]


def wait_for_all(name: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def own_part(x: jax.Array) -> jax.Array:
    """An array as one on this process's only device; where that holds all of it, without a copy.

    Valid until the array itself is donated.
    """
    if not x.is_fully_replicated:
        x = jax.device_put(x, jax.sharding.NamedSharding(x.sharding.mesh, jax.P()))
    return x.addressable_data(0)


def own_copy(tree: PyTree) -> PyTree:
    """Arrays that are the same on all devices, on this process's default device."""

    def one(x: jax.Array) -> jax.Array:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        return jax.numpy.asarray(np.asarray(x.addressable_data(0)))

    return jax.tree.map(one, tree)
