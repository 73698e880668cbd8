"""The decoder as pure functions of explicit weights, caches and tokens.

Layers are unrolled: a scan over layers would copy every KV cache at every token on CPU. Where
a large model is trained they run in a loop (`layer_loop.py`).
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from agemem_jax.models import backends, layer_loop
from agemem_jax.models.attention import Packing
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.kv_cache import Cache, init_cache
from agemem_jax.models.layers import RMSNorm
from agemem_jax.models.transformer import Decoder, Layer, look_up


@flax.struct.dataclass
class Weights:
    """What a forward pass reads.

    Attributes:
      params: base parameters.
      lora: LoRA matrices, or None.
      scales: factors of the parameters that are int8 (see `quantisation.py`), or None.
    """

    params: PyTree
    lora: PyTree | None = None
    scales: PyTree | None = None


def _variables(weights: Weights) -> dict[str, PyTree]:
    named = {"params": weights.params, "lora": weights.lora, "scales": weights.scales}
    return {name: tree for name, tree in named.items() if tree is not None}


def _without_lora(config: DecoderConfig, weights: Weights) -> DecoderConfig:
    """The configuration under which weights without LoRA matrices run."""
    if weights.lora is not None or not config.lora_rank:
        return config
    return dataclasses.replace(config, lora_rank=0)


def _init(config: DecoderConfig, key: Key[Array, ""]) -> dict[str, PyTree]:
    one = jnp.zeros((1, 1), jnp.int32)
    params_key, lora_key = jax.random.split(key)
    keys = {"params": params_key, "lora": lora_key}
    packing = Packing(one, jnp.zeros((1, 1), bool))
    return Decoder(config).init(keys, one, one, packing=packing)


@functools.partial(jax.jit, static_argnames=("config",))
def init_params(config: DecoderConfig, key: Key[Array, ""]) -> PyTree:
    """Random float32 parameters."""
    return nn.unbox(_init(config, key)["params"])


@functools.partial(jax.jit, static_argnames=("config",))
def init_lora(config: DecoderConfig, key: Key[Array, ""]) -> PyTree:
    """Fresh LoRA matrices: their product is zero, so they change nothing yet."""
    if not config.lora_rank:
        raise ValueError("init_lora needs a configuration whose lora_rank is at least 1.")
    return nn.unbox(_init(config, key)["lora"])


def logical_axes(config: DecoderConfig) -> PyTree:
    """The logical axis names of every parameter, as `PartitionSpec`s of names."""
    return nn.get_partition_spec(_abstract(config)["params"])


def lora_logical_axes(config: DecoderConfig) -> PyTree:
    """The logical axis names of every LoRA matrix, likewise."""
    return nn.get_partition_spec(_abstract(config).get("lora", {}))


def abstract_params(config: DecoderConfig) -> PyTree:
    """Shapes and dtypes of the parameters as `jax.ShapeDtypeStruct`s; nothing is computed."""
    return nn.unbox(_abstract(config)["params"])


def abstract_lora(config: DecoderConfig) -> PyTree:
    """Shapes and dtypes of the LoRA matrices, likewise."""
    return nn.unbox(_abstract(config)["lora"])


def _abstract(config: DecoderConfig) -> dict[str, PyTree]:
    return jax.eval_shape(functools.partial(_init, config), jax.random.key(0))


def merge_lora(config: DecoderConfig, params: PyTree, lora: PyTree) -> PyTree:
    """Parameters that do alone what `Weights(params, lora)` does together."""
    scale = config.lora_alpha / config.lora_rank

    def merge(base: Any, low_rank: Any) -> Any:
        if "a" in low_rank and "b" in low_rank:
            return {**base, "kernel": base["kernel"] + scale * low_rank["a"] @ low_rank["b"]}
        return {
            name: merge(value, low_rank[name]) if name in low_rank else value
            for name, value in base.items()
        }

    return merge(params, lora)


_STAYS_FLOAT32 = "norm"  # in a parameter's path; all others are read in the compute dtype


def read_dtypes(config: DecoderConfig, weights: PyTree) -> PyTree:
    """For weights, or some of them, the dtypes that compute the same in the least memory."""
    dtype = jnp.dtype(config.compute_dtype)

    def one(path, leaf):
        return leaf.dtype if _STAYS_FLOAT32 in jax.tree_util.keystr(path) else dtype

    return jax.tree_util.tree_map_with_path(one, weights)


def in_compute_dtype(config: DecoderConfig, weights: PyTree) -> PyTree:
    """Weights, or some of them, that compute the same in less memory, for copies only read."""
    return jax.tree.map(
        lambda leaf, dtype: leaf.astype(dtype), weights, read_dtypes(config, weights)
    )


def forward(
    config: DecoderConfig,
    weights: Weights,
    tokens: Int[Array, "row token"],
    positions: Int[Array, "row token"],
    visible_to: Int[Array, "row token"] | None = None,
    prefix: Int[Array, " prefix"] | None = None,
    uses_prefix: Bool[Array, "row token"] | None = None,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "row token width"]:
    """Hidden states of packed rows.

    A row holds a forest: token sequences that start alike share their first tokens, which
    stand in the row once, and every token attends to the path that leads to it.

    Args:
      config: of the decoder.
      weights: of the decoder.
      tokens: packed sequences.
      positions: of a token in its sequence, the prefix counted where it is used.
      visible_to: index behind the last token of the row that attends to this one; 0 is
        padding. Without it every row is one sequence.
      prefix: tokens that segments share at their start; computed once for all rows, and
        gradients flow back through it.
      uses_prefix: which tokens stand behind the prefix; all, when left out.
      dropout_key: what `config.lora_dropout` draws with; without it nothing is dropped.
    """
    if visible_to is None:
        visible_to = jnp.full(tokens.shape, tokens.shape[1], jnp.int32)
    if uses_prefix is None:
        uses_prefix = jnp.ones(tokens.shape, bool)
    packing = Packing(visible_to, uses_prefix)
    if prefix is not None and not prefix.shape[0]:
        prefix = None
    with backends.get(config.backend).precision(config.compute_dtype):
        return _forward(config, weights, tokens, positions, packing, prefix, dropout_key)


def _forward(config, weights, tokens, positions, packing, prefix, dropout_key):
    if layer_loop.loops(config) and weights.scales is None:
        return _forward_in_loop(config, weights, tokens, positions, packing, prefix)
    apply = functools.partial(
        Decoder(_without_lora(config, weights)).apply,
        _variables(weights),
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    shared = None
    if prefix is not None:
        cache = init_cache(config, 1, len(prefix), jnp.dtype(config.compute_dtype))
        shared = apply(prefix[None], jnp.arange(len(prefix))[None], cache)[1]
    return apply(tokens, positions, packing=packing, prefix=shared)[0]


def _forward_in_loop(config, weights, tokens, positions, packing, prefix):
    """`forward`, its layers in a loop."""
    config, dtype = _without_lora(config, weights), jnp.dtype(config.compute_dtype)
    params, own = weights.params, _variables(in_compute_dtype(config, weights))
    names = [f"layer_{index}" for index in range(config.num_layers)]
    layers = [{kind: tree[name] for kind, tree in own.items()} for name in names]

    x, before = _embed(config, params, tokens), None
    if prefix is not None:
        empty = init_cache(dataclasses.replace(config, num_layers=1), 1, len(prefix), dtype)
        before = layer_loop.Prefix(_embed(config, params, prefix[None]), empty.k[0], empty.v[0])
    axes = {"params": logical_axes(config), "lora": lora_logical_axes(config)}
    axes = {kind: axes[kind]["layer_0"] for kind in own}
    x = layer_loop.run(Layer(config, 0), layers, axes, x, positions, packing, before)
    return _final_norm(config, params, x)


def forward_cached(
    config: DecoderConfig,
    weights: Weights,
    tokens: Int[Array, "slot token"],
    positions: Int[Array, "slot token"],
    cache: Cache,
    rows: tuple[Int[Array, " slot"], Int[Array, " slot"]] | None = None,
) -> tuple[Float[Array, "slot token width"], Cache]:
    """Hidden states of new tokens, whose keys and values are written into the cache.

    Args:
      config: of the decoder.
      weights: of the decoder.
      tokens: new tokens of every slot: one when decoding, a chunk when prefilling.
      positions: where they stand in their slot. A token at or past the cache's length
        writes nothing: give padding such a position.
      cache: what the slots hold; positions before the new ones must be filled. All of it
        is attended to as far as positions allow: give its first parts to pay for less.
      rows: of a layered cache, the slots that hold what comes before the tokens, and those that
        get it and the tokens; a number past the last one gets nothing. A layer's rows are
        copied at a time. Without it there are tokens for every slot.
    """
    with backends.get(config.backend).precision(config.compute_dtype):
        if config.layered:
            return _forward_cached_in_loop(config, weights, tokens, positions, cache, rows)
        decoder = Decoder(_without_lora(config, weights))
        return decoder.apply(_variables(weights), tokens, positions, cache)


def _forward_cached_in_loop(config, weights, tokens, positions, cache, rows):
    """`forward_cached`, its layers in a loop that writes into the cache of all of them."""
    params, layer = weights.params, Layer(config, 0)

    def step(index, carry):
        x, k, v = carry
        own = {"params": layer_loop.of_layer(params["layers"], index)}
        if rows is None:
            x, (k, v) = layer.apply(own, x, positions, (k, v), None, None, index)
            return x, k, v
        sources, slots = rows
        held = [
            tuple(part[index, jnp.minimum(sources, part.shape[1] - 1)] for part in parts)
            for parts in (k, v)
        ]
        x, held = layer.apply(own, x, positions, held, None, None)
        k, v = (
            tuple(
                part.at[index, slots].set(new, mode="drop")
                for part, new in zip(parts, news, strict=True)
            )
            for parts, news in zip((k, v), held, strict=True)
        )
        return x, k, v

    x = _embed(config, params, tokens)
    x, k, v = jax.lax.fori_loop(0, config.num_layers, step, (x, cache.k[0], cache.v[0]))
    return _final_norm(config, params, x), Cache((k,), (v,))


def _embed(config, params, tokens):
    dtype = jnp.dtype(config.compute_dtype)
    return look_up(params["embedding"], tokens, dtype) * jnp.asarray(config.embedding_scale, dtype)


def _final_norm(config, params, x):
    norm = RMSNorm(config.rms_eps, config.unit_offset_norms)
    return norm.apply({"params": params["final_norm"]}, x)


def unembed(
    config: DecoderConfig, weights: Weights, hidden: Float[Array, "*batch width"]
) -> Float[Array, "*batch vocab"]:
    """Logits in float32. The table stays [vocab, width] and is contracted on its last axis."""
    backend = backends.get(config.backend)
    name = "embedding" if config.tied_embeddings else "output"
    table = weights.params[name].astype(hidden.dtype)
    with backend.precision(config.compute_dtype):
        if config.stacked:
            logits = backend.times_transposed(hidden, table, preferred_element_type=jnp.float32)
        else:
            logits = jnp.einsum("...w,vw->...v", hidden, table, preferred_element_type=jnp.float32)
    if weights.scales is not None and name in weights.scales:
        logits *= weights.scales[name]
    if config.logit_softcap:
        logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
    return logits
