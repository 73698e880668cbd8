"""A mixture of experts: each token passes through the k experts that a router chose.

Tokens are sorted by expert, and every expert multiplies the group that is its own
(`jax.lax.ragged_dot`), so the work is that of k experts for each token, whatever the
number of experts.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.layers import ACTIVATE


class MixtureOfExperts(nn.Module):
    """Top-k routed gated linear units, as in Qwen3's models with experts.

    Parameters: `router` [width, expert]; `gate_proj` and `up_proj` [expert, width,
    expert_width]; `down_proj` [expert, expert_width, width].
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
        config = self.config
        k, count, hidden = config.experts_per_token, config.num_experts, config.expert_width
        tokens = x.reshape(-1, x.shape[-1])
        router = self._kernel("router", ("embed", None), (config.width, count))
        gate = self._kernel("gate_proj", ("expert", "embed", "mlp"), (count, config.width, hidden))
        up = self._kernel("up_proj", ("expert", "embed", "mlp"), (count, config.width, hidden))
        down = self._kernel("down_proj", ("expert", "mlp", "embed"), (count, hidden, config.width))

        shares = jax.nn.softmax((tokens @ router.astype(x.dtype)).astype(jnp.float32), axis=-1)
        shares, chosen = jax.lax.top_k(shares, k)
        if config.renormalise_experts:
            shares /= jnp.sum(shares, axis=-1, keepdims=True)

        chosen = chosen.reshape(-1)  # [token * k]
        order = jnp.argsort(chosen, stable=True)
        sizes = jnp.bincount(chosen, length=count)
        expert = chosen[order]

        def multiply(rows, name, kernel):
            product = jax.lax.ragged_dot(rows, kernel.astype(x.dtype), sizes)
            if self.has_variable("scales", name):
                product *= self.get_variable("scales", name)[expert].astype(x.dtype)
            return product

        rows = tokens[order // k]
        gated = ACTIVATE[config.activation](multiply(rows, "gate_proj", gate))
        mixed = multiply(gated * multiply(rows, "up_proj", up), "down_proj", down)
        # Back into the tokens' order by a gather: a scatter would add in an order of its own.
        mixed = mixed[jnp.argsort(order)].reshape(-1, k, x.shape[-1])
        return jnp.sum(mixed * shares[..., None].astype(x.dtype), axis=1).reshape(x.shape)

    def _kernel(self, name: str, axes: tuple[str | None, ...], shape: tuple[int, ...]):
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), axes)
        return self.param(name, init, shape, jnp.float32)
