"""Products of a few rows with a matrix on CPUs, by product_cpu.cc.

At the rows of a step of decoding XLA's CPU backend is about half as fast as memory allows.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from agemem_jax.models.kernels import compiled

_TARGET = "agemem_times_transposed"
_ROWS = range(2, 33)  # one row XLA multiplies as fast, and many faster


def suits(rows: Float[Array, "row input"], matrix: Float[Array, "output input"]) -> bool:
    """Whether the kernel is, or can be, compiled here, and is the faster way."""
    all_float32 = rows.dtype == matrix.dtype == jnp.float32
    return all_float32 and len(rows) in _ROWS and compiled.available()


def times_transposed(
    rows: Float[Array, "row input"], matrix: Float[Array, "output input"]
) -> Float[Array, "row output"]:
    """`rows` times the transpose of `matrix`, for what `suits`."""
    product = jax.ShapeDtypeStruct((len(rows), len(matrix)), jnp.float32)
    return compiled.call(_TARGET, product)(rows, matrix)
