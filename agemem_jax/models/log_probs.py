"""Log-probabilities of chosen tokens, without an array of all tokens' logits."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights


def token_log_probs(
    config: DecoderConfig,
    weights: Weights,
    hidden: Float[Array, "target width"],
    targets: Int[Array, " target"],
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> tuple[Float[Array, " target"], Float[Array, " target"]]:
    """Log-probabilities of `targets`, and entropies, in float32.

    Works through `chunk` targets at a time, forwards and backwards, so that no
    [target, vocab] array of all targets exists. No gradient flows through entropies.
    """
    count = hidden.shape[0]
    chunk = min(chunk, count)
    pad = -count % chunk
    hidden = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(-1, chunk, hidden.shape[-1])
    targets = jnp.pad(targets, (0, pad)).reshape(-1, chunk)
    name = "embedding" if config.tied_embeddings else "output"
    scales = None if weights.scales is None else {name: weights.scales[name]}
    table = Weights({name: weights.params[name]}, scales=scales)
    log_probs, entropy = _chunked_log_probs(config, temperature, table, hidden, targets)
    return log_probs.reshape(-1)[:count], entropy.reshape(-1)[:count]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked_log_probs(config, temperature, table, hidden, targets):
    return _log_probs_forward(config, temperature, table, hidden, targets)[0]


def _log_probs_forward(config, temperature, table, hidden, targets):
    def one(part):
        states, ids = part
        logits = decoder.unembed(config, table, states) / temperature
        highest = jnp.max(logits, axis=-1)
        shares = jnp.exp(logits - highest[:, None])
        total = jnp.sum(shares, axis=-1)
        normaliser = highest + jnp.log(total)
        chosen = jnp.take_along_axis(logits, ids[:, None], axis=-1)[:, 0] - normaliser
        return chosen, normaliser - jnp.sum(shares * logits, axis=-1) / total, normaliser

    log_probs, entropy, normaliser = jax.lax.map(one, (hidden, targets))
    return (log_probs, entropy), (table, hidden, targets, normaliser)


def _log_probs_backward(config, temperature, kept, gradients):
    table, hidden, targets, normaliser = kept

    def one(table_gradient, part):
        states, ids, normaliser, gradient = part
        logits, pull = jax.vjp(functools.partial(decoder.unembed, config), table, states)
        is_target = ids[:, None] == jnp.arange(logits.shape[-1])
        slope = is_target - jnp.exp(logits / temperature - normaliser[:, None])
        to_table, to_states = pull(gradient[:, None] / temperature * slope)
        return jax.tree.map(jnp.add, table_gradient, to_table), to_states

    zero = jax.tree.map(jnp.zeros_like, table)
    table_gradient, to_hidden = jax.lax.scan(one, zero, (hidden, targets, normaliser, gradients[0]))
    return table_gradient, to_hidden, None


_chunked_log_probs.defvjp(_log_probs_forward, _log_probs_backward)
