"""Which devices there are, and how training and rollouts lay them out.

Training uses one mesh over all devices of all processes, with the axes `data`, `fsdp` and
`tensor`. Rollouts use a mesh of the process's own devices, with the same names, so that no
process waits for another while it plays. A single device needs no mesh: then both are None,
and everything runs as if this package did not exist.
"""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices are laid out.

    Attributes:
      data: how many copies of the training state there are; -1 takes what the other axes
        leave.
      fsdp: over how many devices every copy of parameters and optimiser state is split.
      tensor: over how many devices heads, hidden units and the vocabulary are split.
      rollout_tensor: over how many of a process's devices one copy of the weights is split
        during rollouts; 0 takes `tensor`. The other devices of the process hold copies, and
        share the slots between them.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    rollout_tensor: int = 0

    def __post_init__(self):
        for name in ("fsdp", "tensor"):
            if getattr(self, name) < 1:
                raise ValueError(f"mesh.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.data < 1 and self.data != -1:
            raise ValueError(
                f"mesh.data is {self.data}; it must be at least 1, or -1 for all that is left."
            )
        if self.rollout_tensor < 0:
            raise ValueError(f"mesh.rollout_tensor is {self.rollout_tensor}; it must be 0 or more.")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh | None:
    """The mesh of training; None for a single device.

    Args:
      config: sizes of the axes.
      devices: all of them, of a topology for instance; by default those of this job.

    Raises:
      ValueError: the axes do not multiply up to the number of devices, or a tensor group
        would reach over two processes.
    """
    devices = list(jax.devices() if devices is None else devices)
    inner = config.fsdp * config.tensor
    data = len(devices) // inner if config.data == -1 else config.data
    if data * inner != len(devices):
        raise ValueError(
            f"mesh.data, mesh.fsdp and mesh.tensor are {config.data}, {config.fsdp} and "
            f"{config.tensor}, which does not use up the {len(devices)} devices of this job; their "
            "product must be that number."
        )
    _check_local(config.tensor, devices, "mesh.tensor")
    if len(devices) == 1:
        return None
    return _mesh((data, config.fsdp, config.tensor), devices)


def make_rollout_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh | None:
    """The mesh of this process's rollouts; None for a single device.

    Args:
      config: sizes of the axes.
      devices: the process's own; by default those of this process.

    Raises:
      ValueError: the devices do not divide into tensor groups.
    """
    devices = list(jax.local_devices() if devices is None else devices)
    tensor = config.rollout_tensor or config.tensor
    _check_local(tensor, devices, "mesh.rollout_tensor")
    if len(devices) == 1:
        return None
    return _mesh((len(devices) // tensor, 1, tensor), devices)


def batch_shards(mesh: Mesh | None) -> int:
    """Into how many parts rows, slots and memories are split."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def use(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Functions called inside of this are compiled for `mesh`."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def _check_local(size: int, devices: Sequence[Any], name: str) -> None:
    counts: dict[int, int] = {}
    for device in devices:
        counts[device.process_index] = counts.get(device.process_index, 0) + 1
    for process, count in counts.items():
        if count % size:
            raise ValueError(
                f"{name} is {size}, but process {process} has {count} devices; it must divide "
                "them, since a tensor group stays inside of a process."
            )


def _mesh(shape: tuple[int, ...], devices: list[Any]) -> Mesh:
    # In the order of processes, so that each one owns whole tensor groups and the rows that
    # it has packed itself.
    devices.sort(key=lambda device: (device.process_index, device.id))
    assert math.prod(shape) == len(devices)
    return Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))
