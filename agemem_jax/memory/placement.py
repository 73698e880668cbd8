"""Where long-term memories live: with the caches of rollouts, or on the host.

An accelerator works through what it is given in order, so a retrieval there waits for the
chunk of decoding in front of it, and a bank of ordinary size is searched on the host within
less than that.
"""

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import PyTree

from agemem_jax.memory.embedders import EMBEDDERS

DEVICES = ("auto", "host", "accelerator")
ORDINARY_BYTES = 256 * 2**20  # up to which all memories of a process are searched on the host


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Long-term memory.

    Attributes:
      embedder: the encoder, "hashed_ngrams" or "minilm".
      entries: the capacity of one memory.
      device: where memories live. "host" is the host's CPU, so that no memory operation waits
        for what an accelerator is about to do; "accelerator" the devices of rollouts; "auto"
        the host, unless the memories of all slots are large, or JAX has no CPU device beside
        the accelerator (JAX_PLATFORMS). On CPUs they are always with the rollouts.
    """

    embedder: str = "hashed_ngrams"
    entries: int = 64
    device: str = "auto"

    def __post_init__(self):
        if self.entries < 1:
            raise ValueError(f"memory.entries is {self.entries}; it must be at least 1.")
        for name, known in (("embedder", EMBEDDERS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"memory.{name} is {getattr(self, name)!r}; it must be one of "
                    f"{', '.join(known)}."
                )


def place(make: Callable[[], PyTree], device: str, rollouts: Sharding) -> PyTree:
    """The arrays that `make` makes, where memories are to live.

    Args:
      make: of all memories; is traced for their sizes first.
      device: one of `DEVICES`.
      rollouts: how arrays of all slots are laid out.

    Raises:
      ValueError: the host is asked for by name, and JAX does not use it.
    """
    sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(make))]
    large = device == "auto" and sum(sizes) > ORDINARY_BYTES
    host = None if device == "accelerator" or large else host_beside(rollouts)
    if device == "host" and host is None and not _on_host(rollouts):
        raise ValueError(
            "memory.device is 'host', but JAX does not use the host's CPU: add it to "
            "JAX_PLATFORMS ('cuda,cpu'), or take 'auto' or 'accelerator'."
        )
    with jax.default_device(host):
        return jax.device_put(make(), SingleDeviceSharding(host) if host else rollouts)


def host_beside(rollouts: Sharding) -> jax.Device | None:
    """The CPU device beside the accelerators of rollouts; None where JAX has none."""
    if _on_host(rollouts):
        return None
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names the accelerator alone
        return None


def _on_host(rollouts: Sharding) -> bool:
    return all(device.platform == "cpu" for device in rollouts.device_set)
