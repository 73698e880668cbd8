"""The device side of the engine: prefill, decode and sampling as pure jitted functions.

Caches and decode states are donated and come back updated in place. Axis order:
[slot, ...]. A call reads and writes the first parts of the cache and leaves the rest alone.

On a mesh, slots are split into shards, each with its own devices. Rows that take from slots
then stand shard by shard, and count slots from the first one of their shard, so that nothing
travels between shards.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from agemem_jax.models import decoder, kv_cache
from agemem_jax.models.config import DecoderConfig
from agemem_jax.parallel import rules

_BLOCK = 128  # tokens of the vocabulary that are drawn from together


@flax.struct.dataclass
class DecodeState:
    """What a decode chunk reads and writes, one row per slot.

    Attributes:
      tokens: the token to feed next.
      positions: its position; also the number of tokens in the slot's cache.
      active: whether the slot generates.
      generated: tokens sampled so far by the running request.
      limits: the running request's `max_tokens`.
      keys: the running request's key data.
      temperatures: the running request's temperature.
      top_ks: how many of the likeliest tokens may be drawn; 0 is all.
      top_ps: the likeliest tokens may be drawn until they hold this much probability.
    """

    tokens: Int[Array, " slot"]
    positions: Int[Array, " slot"]
    active: Bool[Array, " slot"]
    generated: Int[Array, " slot"]
    limits: Int[Array, " slot"]
    keys: Key[Array, " slot"]
    temperatures: Float[Array, " slot"]
    top_ks: Int[Array, " slot"]
    top_ps: Float[Array, " slot"]


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


def _sample(
    logits: Float[Array, "slot vocab"], state: DecodeState
) -> tuple[Int[Array, " slot"], Float[Array, " slot"]]:
    """Draws one token per slot with the slot's own key and settings.

    Log-probabilities are those of the distribution that was drawn from.
    """
    greedy = state.temperatures <= 0
    scaled = logits / jnp.where(greedy, 1.0, state.temperatures)[:, None]
    restricted = state.active & ~greedy & ((state.top_ks > 0) | (state.top_ps < 1.0))
    top_ks = jnp.where(restricted, state.top_ks, 0)
    top_ps = jnp.where(restricted, state.top_ps, 2.0)  # rounding must not leave anything out
    scaled = jax.lax.cond(  # sorting the vocabulary costs more than the rest of a step
        jnp.any(restricted), lambda x: _restrict(x, top_ks, top_ps), lambda x: x, scaled
    )
    highest = jnp.max(scaled, axis=-1, keepdims=True)
    weights = jnp.exp(scaled - highest)
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.generated)
    drawn, total = _draw(weights, jax.vmap(jax.random.uniform)(keys))
    tokens = jax.lax.cond(  # looking for the likeliest token costs as much as drawing one
        jnp.any(greedy & state.active),
        lambda: jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32),
        lambda: drawn.astype(jnp.int32),
    )
    chosen = jnp.take_along_axis(scaled - highest, tokens[:, None], axis=-1)[:, 0]
    return tokens, chosen - jnp.log(total)


def _draw(
    weights: Float[Array, "slot vocab"], uniforms: Float[Array, " slot"]
) -> tuple[Int[Array, " slot"], Float[Array, " slot"]]:
    """Draws by weight, and sums the weights; no token of weight 0 is ever drawn.

    Inverts the cumulative distribution at one number from [0, 1), first over blocks of
    tokens and then inside of one: a random number for every token of the vocabulary would
    cost as much as the layers of a small model.
    """
    pad = -weights.shape[-1] % _BLOCK
    blocks = jnp.pad(weights, ((0, 0), (0, pad))).reshape(len(weights), -1, _BLOCK)
    masses = jnp.sum(blocks, axis=-1)
    total = jnp.sum(masses, axis=-1)
    block, rest = _invert(masses, uniforms * total)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    place, _ = _invert(inside, rest)
    return block * _BLOCK + place, total


def _invert(
    masses: Float[Array, "slot bin"], targets: Float[Array, " slot"]
) -> tuple[Int[Array, " slot"], Float[Array, " slot"]]:
    """The bin in which the running sum passes a target, and how far into the bin that is."""
    ends = jnp.cumsum(masses, axis=-1)
    last = masses.shape[-1] - 1 - jnp.argmax(masses[:, ::-1] > 0, axis=-1)  # by rounding, past it
    index = jnp.minimum(jnp.sum(ends <= targets[:, None], axis=-1), last)
    end, mass = (jnp.take_along_axis(x, index[:, None], axis=-1)[:, 0] for x in (ends, masses))
    return index, targets - (end - mass)


@functools.partial(
    jax.jit,
    static_argnames=("config", "parts", "chunk", "idle_slots", "stop_ids"),
    donate_argnames=("cache", "state"),
    # cuBLAS reads a layer's matrix where it lies; for Triton XLA copies it first.
    compiler_options={"xla_gpu_enable_triton_gemm": False},
)
def decode_chunk(
    config: DecoderConfig,
    weights: decoder.Weights,
    cache: kv_cache.Cache,
    state: DecodeState,
    slots: Int[Array, " row"] | None,
    *,
    parts: int,
    chunk: int,
    idle_slots: int,
    stop_ids: tuple[int, ...],
):
    """Samples up to `chunk` tokens in every active one of `slots`.

    Args:
      config: of the decoder.
      weights: of the decoder.
      cache: of all slots.
      state: of all slots.
      slots: which ones run, the others are idle; rows that pad the batch carry a number
        past the last one. Their caches are copied to and fro. None runs all in place.
      parts: how many parts of the cache the running slots reach into.
      chunk: the most tokens.
      idle_slots: as soon as so many have come to their end, the chunk ends.
      stop_ids: the tokens that end a response.

    Returns:
      The cache, the state, and (tokens, log_probs, count): int32 and float32
      [row, chunk], valid up to `count` [row].
    """
    whole, all_states, cache = cache, state, cache.first(parts)
    length = sum(part.shape[-2] for part in whole.v[0])
    if slots is not None:
        held = jnp.minimum(slots, state.tokens.shape[0] - 1)
        cache, state = _take((cache, state), held)
        state = state.replace(active=state.active & (slots < all_states.tokens.shape[0]))
    rows, begun = state.tokens.shape[0], jnp.sum(state.active)

    def keep_going(carry):
        index, _, state, *_ = carry
        busy = jnp.sum(state.active)
        return (index < chunk) & (busy > 0) & (begun - busy < idle_slots)

    def step(carry):
        index, cache, state, tokens, log_probs, count = carry
        positions = jnp.where(state.active, state.positions, length)  # idle slots write nothing
        hidden, cache = decoder.forward_cached(
            config, weights, state.tokens[:, None], positions[:, None], cache
        )
        logits = decoder.unembed(config, weights, hidden[:, 0])
        # First by vocabulary, or the table is gathered in the logits' stead.
        logits = rules.constrain(logits, "batch", "vocab")
        sampled, sampled_log_probs = _sample(rules.constrain(logits, "batch", None), state)
        tokens = tokens.at[:, index].set(jnp.where(state.active, sampled, 0))
        log_probs = log_probs.at[:, index].set(jnp.where(state.active, sampled_log_probs, 0.0))
        advance = state.active.astype(jnp.int32)
        generated = state.generated + advance
        stopped = jnp.any(sampled[:, None] == jnp.asarray(stop_ids, jnp.int32), axis=-1)
        state = state.replace(
            tokens=jnp.where(state.active, sampled, state.tokens),
            positions=state.positions + advance,
            generated=generated,
            active=state.active & ~stopped & (generated < state.limits),
        )
        return index + 1, cache, state, tokens, log_probs, count + advance

    carry = (
        jnp.int32(0), cache, state, jnp.zeros((rows, chunk), jnp.int32),
        jnp.zeros((rows, chunk), jnp.float32), jnp.zeros((rows,), jnp.int32),
    )  # fmt: skip
    _, cache, state, tokens, log_probs, count = jax.lax.while_loop(keep_going, step, carry)
    if slots is not None:
        cache = _put(whole.first(parts), slots, cache)
        state = _put(all_states, slots, state)
    cache, state = jax.tree.map(_keep, (cache, state))
    return whole.with_first(cache), state, (tokens, log_probs, count)


@functools.partial(
    jax.jit, static_argnames=("config", "parts", "shards"), donate_argnames=("cache",)
)
def prefill(
    config: DecoderConfig,
    weights: decoder.Weights,
    cache: kv_cache.Cache,
    sources: Int[Array, " row"] | None,
    slots: Int[Array, " row"] | None,
    tokens: Int[Array, "row token"],
    positions: Int[Array, "row token"],
    *,
    parts: int,
    shards: int,
) -> kv_cache.Cache:
    """Copies what `sources` hold into `slots`, the keys and values of `tokens` added.

    Rows that pad the batch carry a slot number past the last one, tokens that pad a
    row carry a position past the cache: both are dropped when written. Where both are None
    there is a row for each slot, and nothing is copied.
    """
    first = cache.first(parts)
    held = first if slots is None else _take(first, sources, shards)
    _, held = decoder.forward_cached(config, weights, tokens, positions, held)
    held = jax.tree.map(_keep, held) if slots is None else _put(first, slots, held, shards)
    return cache.with_first(held)


@functools.partial(jax.jit, static_argnames=("parts", "shards"), donate_argnames=("cache",))
def copy(
    cache: kv_cache.Cache,
    sources: Int[Array, " row"],
    slots: Int[Array, " row"],
    *,
    parts: int,
    shards: int,
) -> kv_cache.Cache:
    """Copies the first parts of `sources` into `slots`; rows pad as in `prefill`."""
    first = cache.first(parts)
    return cache.with_first(_put(first, slots, _take(first, sources, shards), shards))


@functools.partial(jax.jit, static_argnames=("parts", "shards"), donate_argnames=("cache",))
def share_prefix(cache: kv_cache.Cache, *, parts: int, shards: int) -> kv_cache.Cache:
    """Copies the first parts of each shard's first slot into all of its slots."""

    def share(x):
        if _slot_axis(x):
            return jnp.broadcast_to(x[:, :1], x.shape)
        split = x.reshape(shards, -1, *x.shape[1:])
        return _keep(jnp.broadcast_to(split[:, :1], split.shape).reshape(x.shape))

    return cache.with_first(jax.tree.map(share, cache.first(parts)))


@functools.partial(jax.jit, donate_argnames=("state",))
def halt(state: DecodeState, slots: Int[Array, " slot"]) -> DecodeState:
    """Ends the generations of `slots`; padding is a number past the last slot."""
    active = state.active.at[slots].set(False, mode="drop")
    return state.replace(active=rules.constrain(active, "batch"))


def _take(tree: PyTree, slots: Int[Array, " row"], shards: int = 1) -> PyTree:
    def take(held, places):
        axis = _slot_axis(held)
        return held[(slice(None),) * axis + (jnp.minimum(places, held.shape[axis] - 1),)]

    return jax.tree.map(lambda x: _by_shard(take, shards, x, slots), tree)


def _put(tree: PyTree, slots: Int[Array, " row"], rows: PyTree, shards: int = 1) -> PyTree:
    def put(held, places, row):
        return held.at[(slice(None),) * _slot_axis(held) + (places,)].set(row, mode="drop")

    return jax.tree.map(lambda x, row: _by_shard(put, shards, x, slots, row), tree, rows)


def _slot_axis(x) -> int:
    """1 in a cache that has all layers in front, which no mesh splits, else 0."""
    return int(x.ndim == 5)


def _by_shard(function, shards: int, *arrays):
    """`function` of each shard's part of the arrays, all of which are split along their first."""
    if shards == 1:
        return _keep(function(*arrays))
    split = (x.reshape(shards, -1, *x.shape[1:]) for x in arrays)
    result = jax.vmap(function)(*split)
    return _keep(result.reshape(-1, *result.shape[2:]))


def _keep(x):
    """Split along slots, and a cache along its heads, as all of it is."""
    return rules.constrain(x, "batch", *(("kv_heads",) if x.ndim == 4 else ()))


@functools.partial(jax.jit, donate_argnames=("state",))
def admit(state: DecodeState, slots: Int[Array, " row"], rows: DecodeState) -> DecodeState:
    """Writes the rows of new requests; padding is a slot number past the last one."""
    return _put(state, slots, rows)
