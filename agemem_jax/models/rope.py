"""Rotary position embeddings: frequencies by scaling method, and the rotation itself.

Frequencies are plain numpy, computed once while a function is traced.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SCALINGS = ("default", "linear", "llama3", "yarn", "table")


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary frequencies of one kind of layer. Hashable.

    Attributes:
      theta: base of the geometric series of wavelengths.
      scaling: how a model was stretched to longer contexts: "default" is not at all;
        "linear" divides all frequencies by `factor`; "llama3" only those whose wavelength
        is long against `original_positions`, with a ramp between; "yarn" (arXiv
        2309.00071) ramps over dimensions and sharpens attention; "table" divides each
        frequency by a number of its own.
      factor: of the stretch.
      original_positions: context length before the stretch (llama3, yarn).
      low_freq_factor, high_freq_factor: ends of llama3's ramp, as `original_positions`
        over wavelength.
      beta_slow, beta_fast: ends of yarn's ramp, in rotations over `original_positions`.
      truncate: round yarn's ramp to whole dimensions.
      attention_factor: what yarn multiplies queries and keys with.
      divisors: of the frequencies, one for each pair of dimensions (table).
    """

    theta: float = 10_000.0
    scaling: str = "default"
    factor: float = 1.0
    original_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_slow: float = 1.0
    beta_fast: float = 32.0
    truncate: bool = True
    attention_factor: float = 1.0
    divisors: tuple[float, ...] = ()

    def __post_init__(self):
        if self.scaling not in SCALINGS:
            raise ValueError(
                f"rope.scaling is {self.scaling!r}; it must be one of {', '.join(SCALINGS)}."
            )
        if self.scaling in ("llama3", "yarn") and self.original_positions < 1:
            raise ValueError(f"rope.scaling {self.scaling!r} needs rope.original_positions.")
        if (self.scaling == "table") != bool(self.divisors):
            raise ValueError("rope.scaling 'table' needs rope.divisors, and nothing else has them.")

    def frequencies(self, head_dim: int) -> Float[np.ndarray, " half"]:
        """Radians per position for each pair of dimensions."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        plain = self.theta**-exponents
        if self.scaling == "default":
            scaled = plain
        elif self.scaling == "linear":
            scaled = plain / self.factor
        elif self.scaling == "llama3":
            scaled = self._llama3(plain)
        elif self.scaling == "table":
            scaled = plain / np.asarray(self.divisors)
        else:
            scaled = self._yarn(plain, head_dim)
        return scaled.astype(np.float32)

    def _llama3(self, plain: np.ndarray) -> np.ndarray:
        rotations = self.original_positions * plain / (2 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        keep = np.clip((rotations - self.low_freq_factor) / span, 0.0, 1.0)
        return keep * plain + (1 - keep) * plain / self.factor

    def _yarn(self, plain: np.ndarray, head_dim: int) -> np.ndarray:
        def dimension(rotations: float) -> float:
            """The pair that turns `rotations` times over the original context."""
            wavelength = self.original_positions / (2 * math.pi * rotations)
            return head_dim * math.log(wavelength) / (2 * math.log(self.theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        stretch = np.clip((np.arange(len(plain)) - low) / max(high - low, 1e-3), 0.0, 1.0)
        return stretch * plain / self.factor + (1 - stretch) * plain


def rotate(
    x: Float[Array, "batch token head head_dim"],
    positions: Int[Array, "batch token"],
    rope: Rope,
) -> Float[Array, "batch token head head_dim"]:
    """Turns each pair of dimensions by its angle; the halves of a head are the pairs' parts."""
    angle = positions[..., None, None].astype(jnp.float32) * rope.frequencies(x.shape[-1])
    sin, cos = (rope.attention_factor * part for part in (jnp.sin(angle), jnp.cos(angle)))
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
