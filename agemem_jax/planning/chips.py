"""What chips can do, and how they are joined: the figures behind every time bound, and MFU.

Of TPUs, peak rates are those that Google publishes per chip (cloud.google.com/tpu/docs/v5e, /v5p
and /v6e; links and their one-way rate also in "How to Scale Your Model",
jax-ml.github.io/scaling-book, chapter "TPUs"). Memory is what the compiler lets a program use of
the 16, 95 and 32 GiB, as it says itself when a program does not fit.

Of GPUs, rates are those of NVIDIA's data sheets of A100, H100 and H200 (SXM where nothing else is
said) for dense products in bfloat16; NVLink's 900 GB/s are both ways together, and between
machines DGX H100's data sheet has one adapter of 400 Gbit/s for each GPU. Memory is what CUDA
reports of the 80 and 141 GB, of which JAX takes a part (`Gpu.usable`).
"""

import abc
import dataclasses
import math
import os
import re
from typing import ClassVar

_GIB = 2**30
_GPUS_OF_A_MACHINE = 8
# What JAX takes of a GPU's memory, unless XLA_CLIENT_MEM_FRACTION says something else.
_TAKEN = 0.75


@dataclasses.dataclass(frozen=True)
class Chip(abc.ABC):
    """One kind of chip.

    Attributes:
      name: as topologies are named.
      memory: bytes of HBM.
      flops: peak rate in bfloat16, floating-point operations per second.
      hbm: bytes per second between memory and cores.
      link: bytes per second over one link of the interconnect, one way.
      platform: which of JAX's compilers its programs come from.
    """

    name: str
    memory: int
    flops: float
    hbm: float
    link: float
    platform: ClassVar[str]

    @property
    def usable(self) -> int:
        """Bytes of HBM that a program can use."""
        return self.memory

    @abc.abstractmethod
    def refusal(self, shape: tuple[int, ...]) -> str | None:
        """Why chips are not joined like this; None where they are."""

    @abc.abstractmethod
    def host(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Which of the chips belong to one machine, and so to one process."""

    @abc.abstractmethod
    def bandwidth(self, shape: tuple[int, ...]) -> float:
        """Bytes per second that can reach the chip which is reached slowest."""


@dataclasses.dataclass(frozen=True)
class Tpu(Chip):
    """Chips in a grid or a torus.

    Attributes:
      dimensions: of the torus; there are two links for each.
      ring: from this length on, the ends of a dimension are joined.
      machine: how many chips belong to one, along each dimension.
    """

    dimensions: int
    ring: int
    machine: tuple[int, ...]
    platform: ClassVar[str] = "tpu"

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) == self.dimensions and 0 not in shape:
            return None
        example = "x".join(["2"] * self.dimensions)
        return (
            f"{self.name} chips are joined in {self.dimensions} dimensions, as in "
            f"{self.name}:{example}"
        )

    def host(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(min(size, most) for size, most in zip(shape, self.machine, strict=True))

    def bandwidth(self, shape: tuple[int, ...]) -> float:
        """At a corner of a grid there is one link for each dimension, in a ring there are two; a
        collective over all chips ends when the last one has its share."""
        is_torus = all(size >= self.ring and size % 4 == 0 for size in shape)
        links = 0
        for size in shape:
            joined = is_torus if self.dimensions == 3 else size >= self.ring
            links += 0 if size == 1 else 2 if joined else 1
        return links * self.link


@dataclasses.dataclass(frozen=True)
class Gpu(Chip):
    """Chips behind a switch, up to eight in a machine, and machines behind others.

    `link` is the rate between a GPU and the switch. A shape is how many GPUs there are, or how
    many machines and how many in each.

    Attributes:
      kind: as `jax.Device.device_kind` has it.
      adapter: bytes per second between a GPU and other machines, one way.
    """

    kind: str
    adapter: float
    platform: ClassVar[str] = "cuda"

    @property
    def usable(self) -> int:
        return int(self.memory * float(os.environ.get("XLA_CLIENT_MEM_FRACTION") or _TAKEN))

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        if len(shape) <= 2 and 0 not in shape and shape[-1] <= _GPUS_OF_A_MACHINE:
            return None
        return (
            f"there are 1 to {_GPUS_OF_A_MACHINE} of {self.name} in a machine, as in "
            f"{self.name}:8; two such machines are {self.name}:2x8"
        )

    def host(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[-1:]

    def bandwidth(self, shape: tuple[int, ...]) -> float:
        """In a collective over all GPUs, those of a machine hand on what its adapters bring."""
        machines, own = math.prod(shape[:-1]), shape[-1]
        if machines > 1:
            return min(own * self.adapter, self.link) if own > 1 else self.adapter
        return self.link if own > 1 else 0.0


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        # 1,600 Gbit/s over four links; rings from 16 on.
        Tpu("v5e", int(15.75 * _GIB), 197e12, 819e9, 50e9, 2, ring=16, machine=(2, 2)),
        # 4,800 Gbit/s over six links; rings where a slice is made of whole cubes of 4 x 4 x 4.
        Tpu("v5p", int(95.74 * _GIB), 459e12, 2765e9, 100e9, 3, ring=4, machine=(2, 2, 1)),
        # 3,200 Gbit/s over four links.
        Tpu("v6e", int(31.25 * _GIB), 918e12, 1640e9, 100e9, 2, ring=16, machine=(2, 2)),
        Gpu("h100", int(79.14 * _GIB), 989e12, 3350e9, 450e9, "NVIDIA H100 80GB HBM3", 50e9),
        Gpu("h200", int(139.8 * _GIB), 989e12, 4800e9, 450e9, "NVIDIA H200", 50e9),
    )
}

# Peak rates in bfloat16 by what `jax.Device.device_kind` starts with, the longest that fits.
_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v5p": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU v6e": CHIPS["v6e"].flops,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": CHIPS["h100"].flops,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": CHIPS["h200"].flops,
    "NVIDIA H200 NVL": 835e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Floating-point operations per second in bfloat16; None for devices that are not listed."""
    known = [name for name in _PEAKS if device_kind.startswith(name)]
    return _PEAKS[max(known, key=len)] if known else None


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that are joined.

    Attributes:
      chip: of which kind.
      shape: how many along each dimension.
    """

    chip: Chip
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, name: str) -> "Topology":
        """The topology of this name.

        Args:
          name: "v5e:4x4", "v5p:2x2x4", "h100:8", or "h100:2x8" for two machines of eight.

        Raises:
          ValueError: there is no such chip, or the shape is not one of its.
        """
        match = re.fullmatch(r"([\w]+):(\d+(?:x\d+)*)", name)
        if match is None or match[1] not in CHIPS:
            raise ValueError(
                f"topology is {name!r}; it must be a chip ({', '.join(CHIPS)}) and how many there "
                "are along each dimension, as in v5e:4x4, v5p:2x2x2 or h100:8."
            )
        chip, shape = CHIPS[match[1]], tuple(int(size) for size in match[2].split("x"))
        if refusal := chip.refusal(shape):
            raise ValueError(f"topology is {name!r}, but {refusal}.")
        return cls(chip, shape)

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def host(self) -> "Topology":
        """The chips of one process."""
        return Topology(self.chip, self.chip.host(self.shape))

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def bandwidth(self) -> float:
        """Bytes per second that can reach the chip which is reached slowest; 0 for one alone."""
        return self.chip.bandwidth(self.shape)
