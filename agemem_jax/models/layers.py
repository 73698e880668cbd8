"""Small parts that the decoder's modules share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ACTIVATE = {"silu": nn.silu, "gelu_tanh": nn.gelu}


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, computed in float32.

    With `unit_offset` the stored scale is what is added to 1 (Gemma). Without `scales` there is
    none: what follows has it in its matrices.
    """

    eps: float
    unit_offset: bool = False
    scales: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        y = x.astype(jnp.float32)
        y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        if not self.scales:
            return y.astype(x.dtype)
        start = nn.initializers.zeros_init() if self.unit_offset else nn.initializers.ones_init()
        # Heads' norms are as wide as a head, which no rule ever shards.
        axes = ("embed",) if self.name not in ("q_norm", "k_norm") else ("head_dim",)
        init = nn.with_logical_partitioning(start, axes)
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        return (y * (1.0 + scale if self.unit_offset else scale)).astype(x.dtype)


def scaled(
    module: nn.Module, name: str, product: Float[Array, "*batch features"]
) -> Float[Array, "*batch features"]:
    """A product with parameter `name`, times that parameter's scale where it is int8."""
    if not module.has_variable("scales", name):
        return product
    return product * module.get_variable("scales", name).astype(product.dtype)
