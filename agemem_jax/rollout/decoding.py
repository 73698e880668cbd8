"""The device side of the engine: prefill and decode as pure jitted functions.

Caches and decode states are donated and come back updated in place. Axis order:
[slot, ...]. A call reads and writes the first parts of the cache and leaves the rest alone.

On a mesh, slots are split into shards, each with its own devices. Rows that take from slots
then stand shard by shard, and count slots from the first one of their shard, so that nothing
travels between shards.
"""

import functools
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt32

from agemem_jax.models import decoder, kv_cache
from agemem_jax.models.config import DecoderConfig
from agemem_jax.parallel import rules
from agemem_jax.rollout.generation import GenerationRequest
from agemem_jax.rollout.sampling import BY_TEMPERATURE, SamplingMode, allowed_only, sample

# What a new request brings: slot, token, position, limit, top_k, whether and what is folded
# into the key; temperature and top_p; and behind those its key.
_COUNTS, _COLUMNS = 7, 9


@flax.struct.dataclass
class DecodeState:
    """What a decode chunk reads and writes, one row per slot.

    Attributes:
      tokens: the token to feed next.
      positions: its position; also the number of tokens in the slot's cache.
      active: whether the slot generates.
      generated: tokens sampled so far by the running request.
      limits: the running request's `max_tokens`.
      keys: the running request's key. As data, since a jitted function that returns typed
        keys takes JAX's slow way at every call; typed ones are read alike.
      temperatures: the running request's temperature.
      top_ks: how many of the likeliest tokens may be drawn; 0 is all.
      top_ps: the likeliest tokens may be drawn until they hold this much probability.
    """

    tokens: Int[Array, " slot"]
    positions: Int[Array, " slot"]
    active: Bool[Array, " slot"]
    generated: Int[Array, " slot"]
    limits: Int[Array, " slot"]
    keys: UInt32[Array, "slot word"] | Key[Array, " slot"]
    temperatures: Float[Array, " slot"]
    top_ks: Int[Array, " slot"]
    top_ps: Float[Array, " slot"]

    @classmethod
    def idle(cls, slots: int) -> "DecodeState":
        """The state of slots that do nothing."""
        words = jax.random.key_data(jax.random.key(0)).shape[-1]
        return cls(
            tokens=jnp.zeros(slots, jnp.int32), positions=jnp.zeros(slots, jnp.int32),
            active=jnp.zeros(slots, bool), generated=jnp.zeros(slots, jnp.int32),
            limits=jnp.zeros(slots, jnp.int32), keys=jnp.zeros((slots, words), jnp.uint32),
            temperatures=jnp.ones(slots, jnp.float32), top_ks=jnp.zeros(slots, jnp.int32),
            top_ps=jnp.ones(slots, jnp.float32),
        )  # fmt: skip


@functools.partial(
    jax.jit,
    static_argnames=("config", "parts", "chunk", "idle_slots", "stop_ids", "sampling"),
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
    masks: UInt32[Array, "row word"] | None = None,
    *,
    parts: int,
    chunk: int,
    idle_slots: int | None,
    stop_ids: tuple[int, ...],
    sampling: SamplingMode = BY_TEMPERATURE,
):
    """Samples up to `chunk` tokens in every active one of `slots`.

    Args:
      config: of the decoder.
      weights: of the decoder.
      cache: of all slots.
      state: of all slots.
      slots: which ones run, the others are idle; rows that pad the batch carry a number
        past the last one. Their caches are copied to and fro. None runs all in place.
      masks: the tokens that each row may draw, as bits (see `constraints.Constraint`), which hold
        for one token; None is all of them.
      parts: how many parts of the cache the running slots reach into.
      chunk: the most tokens; 1 with `masks`.
      idle_slots: as soon as so many have come to their end, the chunk ends; None is all of
        them. With 0 it always runs to its end, so that nobody asks after each token.
      stop_ids: the tokens that end a response.
      sampling: what the running requests need.

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
        return (index < chunk) & (busy > 0) & (begun - busy < (idle_slots or rows + 1))

    def step(carry):
        index, cache, state, tokens, log_probs, count = carry
        positions = jnp.where(state.active, state.positions, length)  # idle slots write nothing
        hidden, cache = decoder.forward_cached(
            config, weights, state.tokens[:, None], positions[:, None], cache
        )
        logits = decoder.unembed(config, weights, hidden[:, 0])
        # First by vocabulary, or the table is gathered in the logits' stead.
        logits = rules.constrain(logits, "batch", "vocab")
        if masks is not None:
            logits = allowed_only(logits, masks)
        keys = jax.vmap(jax.random.fold_in)(_typed(state.keys), state.generated)
        sampled, sampled_log_probs = sample(
            rules.constrain(logits, "batch", None), keys, state.temperatures, state.top_ks,
            state.top_ps, sampling,
        )  # fmt: skip
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
    if idle_slots == 0:
        carry = jax.lax.fori_loop(0, chunk, lambda _, carry: step(carry), carry)
    else:
        carry = jax.lax.while_loop(keep_going, step, carry)
    _, cache, state, tokens, log_probs, count = carry
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
    if config.layered and slots is not None:
        rows = (sources, slots)
        _, held = decoder.forward_cached(config, weights, tokens, positions, first, rows)
        return cache.with_first(held)
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


def pack_rows(
    requests: Sequence[GenerationRequest], keys: Sequence[UInt32[np.ndarray, " word"]], slots: int
) -> Int[np.ndarray, "slot column"]:
    """New requests as `admit` reads them: one array, so that one transfer brings all.

    Args:
      requests: at most one for each slot.
      keys: the data of their keys.
      slots: how many there are; rows that pad carry this number.
    """
    packed = np.zeros((slots, _COLUMNS + len(keys[0])), np.int32)
    packed[:, 0] = slots
    for row, request in enumerate(requests):
        step = request.step
        packed[row, :_COUNTS] = (
            request.slot, request.prompt[-1], len(request.prompt) - 1, request.max_tokens,
            request.top_k, step is not None, step or 0,
        )  # fmt: skip
    filled = packed[: len(requests)]
    settings = [(request.temperature, request.top_p) for request in requests]
    filled[:, _COUNTS:_COLUMNS] = np.asarray(settings, np.float32).view(np.int32)
    filled[:, _COLUMNS:] = np.stack(keys).view(np.int32)
    return packed


@functools.partial(jax.jit, donate_argnames=("state",))
def admit(state: DecodeState, packed: Int[Array, "slot column"]) -> DecodeState:
    """Writes the rows of new requests, as `pack_rows` lays them out; any number is one shape."""
    slots, tokens, positions, limits, top_ks, folds, steps = packed[:, :_COUNTS].T
    settings = jax.lax.bitcast_convert_type(packed[:, _COUNTS:_COLUMNS], jnp.float32)
    keys = jax.lax.bitcast_convert_type(packed[:, _COLUMNS:], jnp.uint32)
    folded = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(keys), steps)
    rows = DecodeState(
        tokens=tokens, positions=positions, active=jnp.ones(slots.shape, bool),
        generated=jnp.zeros_like(tokens), limits=limits,
        keys=jnp.where(folds[:, None] > 0, jax.random.key_data(folded), keys),
        temperatures=settings[:, 0], top_ks=top_ks, top_ps=settings[:, 1],
    )  # fmt: skip
    return _put(state, slots, rows)


def _typed(keys: UInt32[Array, "slot word"] | Key[Array, " slot"]) -> Key[Array, " slot"]:
    typed = jax.dtypes.issubdtype(keys.dtype, jax.dtypes.prng_key)
    return keys if typed else jax.random.wrap_key_data(keys)
