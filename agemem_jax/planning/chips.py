"""What chips can do, and how TPUs are joined: the figures behind every time bound, and MFU.

Peak rates are those that Google publishes per chip (cloud.google.com/tpu/docs/v5e, /v5p and /v6e;
links and their one-way rate also in "How to Scale Your Model", jax-ml.github.io/scaling-book,
chapter "TPUs"). Memory is what the compiler lets a program use of the 16, 95 and 32 GiB, as it
says itself when a program does not fit. Those of GPUs are NVIDIA's for dense products
(data sheets of A100, H100 and H200).
"""

import dataclasses
import math
import re

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
      name: as topologies are named.
      memory: bytes of HBM that a program can use.
      flops: peak rate in bfloat16, floating-point operations per second.
      hbm: bytes per second between memory and cores.
      link: bytes per second over one link of the interconnect, one way.
      dimensions: of the torus; there are two links for each.
      ring: from this length on, the ends of a dimension are joined.
      host: how many chips belong to one machine, and so to one process, along each dimension.
    """

    name: str
    memory: int
    flops: float
    hbm: float
    link: float
    dimensions: int
    ring: int
    host: tuple[int, ...]


CHIPS = {
    chip.name: chip
    for chip in (
        # 1,600 Gbit/s over four links; rings from 16 on.
        Chip("v5e", int(15.75 * _GIB), 197e12, 819e9, 50e9, 2, ring=16, host=(2, 2)),
        # 4,800 Gbit/s over six links; rings where a slice is made of whole cubes of 4 x 4 x 4.
        Chip("v5p", int(95.74 * _GIB), 459e12, 2765e9, 100e9, 3, ring=4, host=(2, 2, 1)),
        # 3,200 Gbit/s over four links.
        Chip("v6e", int(31.25 * _GIB), 918e12, 1640e9, 100e9, 2, ring=16, host=(2, 2)),
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
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 835e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Floating-point operations per second in bfloat16; None for devices that are not listed."""
    known = [name for name in _PEAKS if device_kind.startswith(name)]
    return _PEAKS[max(known, key=len)] if known else None


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips in a grid.

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
          name: "v5e:4x4", or "v5p:2x2x4".

        Raises:
          ValueError: there is no such chip, or the shape is not one of its.
        """
        match = re.fullmatch(r"([\w]+):(\d+(?:x\d+)*)", name)
        if match is None or match[1] not in CHIPS:
            raise ValueError(
                f"topology is {name!r}; it must be a chip ({', '.join(CHIPS)}) and how many there "
                "are along each dimension, as in v5e:4x4 or v5p:2x2x2."
            )
        chip, shape = CHIPS[match[1]], tuple(int(size) for size in match[2].split("x"))
        if len(shape) != chip.dimensions or 0 in shape:
            raise ValueError(
                f"topology is {name!r}, but {chip.name} chips are joined in {chip.dimensions} "
                f"dimensions, as in {chip.name}:{'x'.join(['2'] * chip.dimensions)}."
            )
        return cls(chip, shape)

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def host(self) -> "Topology":
        """The chips of one process."""
        own = zip(self.shape, self.chip.host, strict=True)
        return Topology(self.chip, tuple(min(size, most) for size, most in own))

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def bandwidth(self) -> float:
        """Bytes per second that can reach the chip with the fewest links.

        At a corner of a grid there is one link for each dimension, in a ring there are two; a
        collective over all chips ends when the last one has its share.
        """
        is_torus = all(size >= self.chip.ring and size % 4 == 0 for size in self.shape)
        links = 0
        for size in self.shape:
            joined = is_torus if self.chip.dimensions == 3 else size >= self.chip.ring
            links += 0 if size == 1 else 2 if joined else 1
        return links * self.chip.link
