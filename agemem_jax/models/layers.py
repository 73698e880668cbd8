"""Small parts that the decoder's modules share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from agemem_jax.models.kernels import product_cpu
from agemem_jax.parallel import rules

ACTIVATE = {"silu": nn.silu, "gelu_tanh": nn.gelu}


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, computed in float32.

    With `unit_offset` the stored scale is what is added to 1 (Gemma).
    """

    eps: float
    unit_offset: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        start = nn.initializers.zeros_init() if self.unit_offset else nn.initializers.ones_init()
        # Heads' norms are as wide as a head, which no rule ever shards.
        axes = ("embed",) if self.name not in ("q_norm", "k_norm") else ("head_dim",)
        init = nn.with_logical_partitioning(start, axes)
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return (y * (1.0 + scale if self.unit_offset else scale)).astype(x.dtype)


def scaled(
    module: nn.Module, name: str, product: Float[Array, "*batch features"]
) -> Float[Array, "*batch features"]:
    """A product with parameter `name`, times that parameter's scale where it is int8."""
    if not module.has_variable("scales", name):
        return product
    return product * module.get_variable("scales", name).astype(product.dtype)


def times(
    x: Float[Array, "*batch inputs"], matrix: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    """x times `matrix`.

    On one device as a product of two matrices: with more axes, XLA's CPU backend turns what the
    gradient of `matrix` is computed from around, which takes a tenth of an update.
    """
    if rules.current_sizes():
        return x @ matrix  # axes that are split over a mesh cannot be made one
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


_FEW_ROWS = 256


def times_transposed(
    x: Float[Array, "*batch inputs"], matrix: Float[Array, "outputs inputs"], **options: Any
) -> Float[Array, "*batch outputs"]:
    """x times the transpose of `matrix`; `options` are those of `jax.lax.dot_general`.

    On CPUs a kernel multiplies the fewest. Without it, few rows are multiplied from the right,
    between barriers that keep XLA from turning the product around: its CPU backend is up to a third
    faster that way.
    """
    rows = x.reshape(-1, x.shape[-1])
    if product_cpu.suits(rows, matrix) and not rules.current_sizes():
        product = product_cpu.times_transposed(rows, matrix)
    elif len(rows) > _FEW_ROWS:
        product = jax.lax.dot_general(rows, matrix, (((1,), (1,)), ((), ())), **options)
    else:
        columns = jax.lax.optimization_barrier(rows.T)
        product = jax.lax.dot_general(matrix, columns, (((1,), (0,)), ((), ())), **options)
        product = jax.lax.optimization_barrier(product).T
    return product.reshape(*x.shape[:-1], len(matrix))
