"""Draws tokens from logits, and the settings that decide which program does so.

Greedy requests and those that leave tokens out cost passes over the vocabulary of their own.
Which of the two are among the running ones is known on the host, so it is a static argument:
no program asks on the way.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from agemem_jax.rollout.generation import GenerationRequest

_BLOCK = 128  # tokens of the vocabulary that are drawn from together


@dataclasses.dataclass(frozen=True)
class SamplingMode:
    """What the requests of a chunk need beside a draw by temperature.

    Attributes:
      greedy: one of them takes the likeliest token (temperature 0).
      restricted: one of them draws from some of the tokens only (top-k, top-p).
    """

    greedy: bool = False
    restricted: bool = False

    @classmethod
    def of(cls, requests: Iterable[GenerationRequest]) -> "SamplingMode":
        """The mode that serves all of these."""
        greedy = restricted = False
        for each in requests:
            if each.temperature <= 0:
                greedy = True
            elif each.top_k > 0 or each.top_p < 1.0:
                restricted = True
        return cls(greedy, restricted)


BY_TEMPERATURE = SamplingMode()


def allowed_only(
    logits: Float[Array, "slot vocab"], masks: UInt32[Array, "slot word"]
) -> Float[Array, "slot vocab"]:
    """Logits with -inf for tokens whose bit is not set (see `constraints.Constraint`)."""
    bits = (masks[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    allowed = bits.reshape(len(masks), -1)[:, : logits.shape[-1]]
    return jnp.where(allowed > 0, logits, -jnp.inf)


def sample(
    logits: Float[Array, "slot vocab"],
    keys: Key[Array, " slot"],
    temperatures: Float[Array, " slot"],
    top_ks: Int[Array, " slot"],
    top_ps: Float[Array, " slot"],
    mode: SamplingMode,
) -> tuple[Int[Array, " slot"], Float[Array, " slot"]]:
    """Draws one token per slot with the slot's own key and settings.

    Settings that `mode` does not name are not looked at: slots that have them must be idle.

    Returns:
      Tokens, and their log-probabilities in the distribution that was drawn from.
    """
    greedy = temperatures <= 0
    scaled = logits / jnp.where(greedy, 1.0, temperatures)[:, None]
    if mode.restricted:
        restricted = ~greedy & ((top_ks > 0) | (top_ps < 1.0))
        top_ks = jnp.where(restricted, top_ks, 0)
        top_ps = jnp.where(restricted, top_ps, 2.0)  # rounding must not leave anything out
        scaled = _restrict(scaled, top_ks, top_ps)
    tokens, highest, total = jax.lax.platform_dependent(
        scaled, jax.vmap(jax.random.uniform)(keys), cuda=draw_in_one_pass, default=draw_in_passes
    )
    if mode.greedy:
        tokens = jnp.where(greedy, jnp.argmax(logits, axis=-1), tokens)
    tokens = tokens.astype(jnp.int32)
    chosen = jnp.take_along_axis(scaled - highest[:, None], tokens[:, None], axis=-1)[:, 0]
    return tokens, chosen - jnp.log(total)


def _restrict(
    logits: Float[Array, "slot vocab"], top_ks: Int[Array, " slot"], top_ps: Float[Array, " slot"]
) -> Float[Array, "slot vocab"]:
    """Logits with -inf for tokens that top-k and top-p leave out; the likeliest one stays."""
    falling = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(falling, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    ranks = jnp.arange(logits.shape[-1])
    limits = jnp.where(top_ks > 0, top_ks, logits.shape[-1])
    kept = (before < top_ps[:, None]) & (ranks < limits[:, None])
    count = jnp.maximum(jnp.sum(kept, axis=-1), 1)
    threshold = jnp.take_along_axis(falling, count[:, None] - 1, axis=-1)
    return jnp.where(logits >= threshold, logits, -jnp.inf)


Drawn = tuple[Int[Array, " slot"], Float[Array, " slot"], Float[Array, " slot"]]


def draw_in_passes(logits: Float[Array, "slot vocab"], uniforms: Float[Array, " slot"]) -> Drawn:
    """Draws by softmax; no token of probability 0 is ever drawn.

    Inverts the cumulative distribution at one number from [0, 1), first over blocks of
    tokens and then inside of one: a random number for every token of the vocabulary would
    cost as much as the layers of a small model.

    Returns:
      Tokens, each slot's highest logit, and the sum of exponentials of what lies below it.
    """
    highest = jnp.max(logits, axis=-1)
    blocks = _blocks(jnp.exp(logits - highest[:, None]), 0.0)
    masses = jnp.sum(blocks, axis=-1)
    total = jnp.sum(masses, axis=-1)
    block, rest = _invert(masses, uniforms * total)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    place, _ = _invert(inside, rest)
    return block * _BLOCK + place, highest, total


def draw_in_one_pass(logits: Float[Array, "slot vocab"], uniforms: Float[Array, " slot"]) -> Drawn:
    """`draw_in_passes`, but for rounding, with the vocabulary read once.

    The highest logit of a block and the exponentials below it are reduced together. XLA's
    code for CPUs makes of that a loop of single tokens, that for GPUs one kernel.
    """
    lowest = jnp.finfo(logits.dtype).min  # in place of -inf, from which nothing is subtracted
    blocks = _blocks(jnp.maximum(logits, lowest), lowest)
    highests, masses = jax.lax.reduce(
        (blocks, jnp.ones_like(blocks)), (lowest, jnp.zeros((), blocks.dtype)), _add_below, (2,)
    )
    highest = jnp.max(highests, axis=-1)
    masses = masses * jnp.exp(highests - highest[:, None])
    total = jnp.sum(masses, axis=-1)
    block, rest = _invert(masses, uniforms * total)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    place, _ = _invert(jnp.exp(inside - highest[:, None]), rest)
    return block * _BLOCK + place, highest, total


def _add_below(first, second):
    """Joins two pairs of (highest logit, sum of exponentials below it)."""
    highest = jnp.maximum(first[0], second[0])
    sums = (total * jnp.exp(logit - highest) for logit, total in (first, second))
    return highest, sum(sums)


def _blocks(x: Float[Array, "slot vocab"], filler: float) -> Float[Array, "slot block token"]:
    padded = jnp.pad(x, ((0, 0), (0, -x.shape[-1] % _BLOCK)), constant_values=filler)
    return padded.reshape(len(x), -1, _BLOCK)


def _invert(
    masses: Float[Array, "slot bin"], targets: Float[Array, " slot"]
) -> tuple[Int[Array, " slot"], Float[Array, " slot"]]:
    """The bin in which the running sum passes a target, and how far into the bin that is."""
    ends = jnp.cumsum(masses, axis=-1)
    last = masses.shape[-1] - 1 - jnp.argmax(masses[:, ::-1] > 0, axis=-1)  # by rounding, past it
    index = jnp.minimum(jnp.sum(ends <= targets[:, None], axis=-1), last)
    end, mass = (jnp.take_along_axis(x, index[:, None], axis=-1)[:, 0] for x in (ends, masses))
    return index, targets - (end - mass)
