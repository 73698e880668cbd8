"""One config-driven Flax decoder, and the pure functions through which it is used.

Layers are unrolled: a scan over layers would copy every KV cache at every token on CPU.
Axis order: [batch, token, ...] for activations, [slot, kv_head, length, head_dim] for
caches. LoRA matrices, and the scales of int8 parameters, live in collections of their own.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from agemem_jax.models import layer_loop
from agemem_jax.models.attention import (
    Packing,
    Scoring,
    attend_cache,
    attend_packed,
    choose_implementation,
)
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.experts import MixtureOfExperts
from agemem_jax.models.layers import ACTIVATE, RMSNorm, scaled, times_transposed
from agemem_jax.models.rope import rotate
from agemem_jax.parallel import collectives, rules


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


@flax.struct.dataclass
class Cache:
    """Keys and values by layer and by part, in the order that their products read fastest.

    Parts stand one behind the other. Attention to the first few costs nothing for the
    rest, and needs no slice, which would be a copy.
    """

    k: tuple[tuple[Float[Array, "slot kv_head head_dim length"], ...], ...]
    v: tuple[tuple[Float[Array, "slot kv_head length head_dim"], ...], ...]

    def first(self, parts: int) -> "Cache":
        """The first parts of every layer."""
        return Cache(*(tuple(layer[:parts] for layer in each) for each in (self.k, self.v)))

    def with_first(self, new: "Cache") -> "Cache":
        """This cache with its first parts replaced."""

        def replace(old, new):
            return tuple((*b, *a[len(b) :]) for a, b in zip(old, new, strict=True))

        return Cache(replace(self.k, new.k), replace(self.v, new.v))


class Projection(nn.Module):
    """A linear map with an optional bias and an optional low-rank addition."""

    config: DecoderConfig
    features: int
    axes: tuple[str, str]
    bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        axes, shape = self.axes, (x.shape[-1], self.features)
        if config.stacked:
            axes, shape = axes[::-1], shape[::-1]
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), axes)
        kernel = self.param("kernel", init, shape, jnp.float32).astype(dtype)
        kernel = rules.gather(kernel, axes)
        y = times_transposed(x, kernel) if config.stacked else scaled(self, "kernel", x @ kernel)
        if self.bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.axes[1:])
            y += self.param("bias", init, (self.features,), jnp.float32).astype(dtype)
        if config.has_lora(self.name):
            y += self._low_rank(x)
        return y

    def _low_rank(self, x):
        config, rank = self.config, self.config.lora_rank
        shape_a, shape_b = (x.shape[-1], rank), (rank, self.features)
        axes_a, axes_b = (self.axes[0], "lora_rank"), ("lora_rank", self.axes[1])
        normal = nn.with_logical_partitioning(nn.initializers.normal(0.02), axes_a)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), axes_b)
        # Drawn in a function, since there is a random key at initialisation only.
        a = self.variable("lora", "a", lambda: normal(self.make_rng("lora"), shape_a)).value
        b = self.variable("lora", "b", lambda: zeros(None, shape_b)).value
        if config.lora_dropout and self.has_rng("dropout"):
            x = nn.Dropout(config.lora_dropout, deterministic=False)(x)
        a, b = rules.gather(a.astype(x.dtype), axes_a), rules.gather(b.astype(x.dtype), axes_b)
        return (x @ a) @ b * (config.lora_alpha / rank)


def _norm(config: DecoderConfig, name: str) -> RMSNorm:
    return RMSNorm(config.rms_eps, config.unit_offset_norms, name=name)


class Attention(nn.Module):
    """Self-attention over packed rows, or over a slot's cache."""

    config: DecoderConfig
    index: int  # of the layer

    @nn.compact
    def __call__(self, x, positions, cache, packing, prefix):
        config = self.config
        batch, tokens, _ = x.shape
        window = config.window(self.index)
        rope = config.local_rope if window and config.local_rope else config.rope
        scale = config.attention_scale or config.head_dim**-0.5
        implementation = choose_implementation(config.attention)
        scoring = Scoring(scale, config.attention_softcap, window, implementation)

        def project(name, heads):
            width = heads * config.head_dim
            axes = ("embed", "kv_heads" if name in ("k_proj", "v_proj") else "heads")
            y = Projection(config, width, axes, config.qkv_bias, name=name)(x)
            return y.reshape(batch, tokens, heads, config.head_dim)

        queries_end, keys_end = config.num_heads, config.num_heads + config.num_kv_heads
        if config.stacked:
            heads = project("qkv_proj", keys_end + config.num_kv_heads)
            query, keys, values = jnp.split(heads, (queries_end, keys_end), axis=2)
        else:
            query = project("q_proj", config.num_heads)
            keys = project("k_proj", config.num_kv_heads)
            values = project("v_proj", config.num_kv_heads)
        if config.qk_norm:
            query, keys = _norm(config, "q_norm")(query), _norm(config, "k_norm")(keys)
        query, keys = rotate(query, positions, rope), rotate(keys, positions, rope)
        if cache is None:
            mixed = _attend_packed(scoring, query, keys, values, positions, packing, prefix)
        else:
            mixed, cache = _attend_cache(scoring, query, keys, values, positions, cache)
        mixed = mixed.reshape(batch, tokens, -1)
        mixed = Projection(config, config.width, ("heads", "embed"), name="o_proj")(mixed)
        return mixed, cache


# Logical axes of what attention takes and gives.
_TOKENS, _HEADS = ("batch", None), ("batch", None, "heads", None)
_KV_HEADS, _HELD = ("batch", None, "kv_heads", None), ("batch", "kv_heads", None, None)


def _attend_packed(scoring: Scoring, query, keys, values, positions, packing, prefix):
    """Each device attends along its own rows, with its own heads."""
    kv = [x.swapaxes(1, 2) for x in (keys, values)]
    prefix = () if prefix is None else prefix

    def attend(query, keys, values, positions, packing, prefix):
        return (
            attend_packed(query, keys, values, positions, packing, prefix or None, scoring),
        )  # fmt: skip

    names = (_HEADS, _HELD, _HELD, _TOKENS, _TOKENS, _HELD)
    return rules.per_shard(attend, names, (_HEADS,), query, *kv, positions, packing, prefix)[0]


def _attend_cache(scoring: Scoring, query, keys, values, positions, cache):
    """Each device writes and reads the caches of its own slots and heads."""

    def attend(query, keys, values, places, positions, cache):
        cache = _write(*cache, keys, values, places)
        return attend_cache(query, *cache, positions, scoring), cache

    # Of a prefix, each device has some tokens, and they attend to all.
    held = collectives.all_tokens(keys, values, positions, axes=rules.BATCH)
    names = (_HEADS, _KV_HEADS, _KV_HEADS, _TOKENS, _TOKENS, _HELD)
    return rules.per_shard(attend, names, (_HEADS, _HELD), query, *held, positions, cache)


def _write(key_parts, value_parts, keys, values, positions):
    """Writes [slot, token, kv_head, head_dim] at `positions`; what lies past the end is dropped."""
    if positions.size == 1:
        # XLA turns the scatter of a single token into an update that copies the whole cache
        # at every step. A second one, past the end, keeps it a scatter in place.
        keys, values = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (keys, values))
        end = sum(part.shape[2] for part in value_parts)
        positions = jnp.pad(positions, ((0, 0), (0, 1)), constant_values=end)
    rows, start, written = jnp.arange(len(keys))[:, None], 0, []
    for held_keys, held_values in zip(key_parts, value_parts, strict=True):
        length = held_values.shape[2]
        inside = jnp.where(positions >= start, positions - start, length)  # -1 would be the last
        new_keys, new_values = keys.astype(held_keys.dtype), values.astype(held_values.dtype)
        written.append(
            (
                held_keys.at[rows, :, :, inside].set(new_keys, mode="drop"),
                held_values.at[rows, :, inside].set(new_values, mode="drop"),
            )
        )
        start += length
    return tuple(zip(*written, strict=True))


class FeedForward(nn.Module):
    """A gated linear unit: SwiGLU, or GeGLU."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x):
        config = self.config
        width, axes = config.ffn_width, ("embed", "mlp")
        if config.stacked:
            gate_up = Projection(config, 2 * width, axes, name="gate_up_proj")(x)
            gate, up = jnp.split(gate_up, 2, axis=-1)
        else:
            gate = Projection(config, width, axes, name="gate_proj")(x)
            up = Projection(config, width, axes, name="up_proj")(x)
        hidden = ACTIVATE[config.activation](gate) * up
        hidden = rules.split_tokens(hidden, "mlp")
        return Projection(config, config.width, ("mlp", "embed"), name="down_proj")(hidden)


class Layer(nn.Module):
    """Pre-norm attention and feed-forward with residuals."""

    config: DecoderConfig
    index: int

    @nn.compact
    def __call__(self, x, positions, cache, packing, prefix):
        config = self.config
        y = _norm(config, "attention_norm")(x)
        attention = Attention(config, self.index, name="attention")
        y, cache = attention(y, positions, cache, packing, prefix)
        x = x + (_norm(config, "attention_post_norm")(y) if config.post_norms else y)
        feed_forward = MixtureOfExperts if config.has_experts(self.index) else FeedForward
        y = feed_forward(config, name="mlp")(_norm(config, "mlp_norm")(x))
        x = x + (_norm(config, "mlp_post_norm")(y) if config.post_norms else y)
        return rules.split_tokens(x), cache


def _look_up(table, tokens, dtype):
    """Rows of the embedding table.

    Split over the width, every device looks up its part of the rows of all in its group, and
    they exchange: the table stays where it is.
    """
    sizes = rules.current_sizes()
    if not sizes:
        return table[tokens].astype(dtype)
    if sizes["tensor"] > 1 and len(table) % sizes["tensor"] == 0:
        return rules.look_up(rules.constrain(table.astype(dtype), "vocab", None), tokens)
    tokens = rules.constrain(tokens, "data_batch", None)
    parts = rules.constrain(table.astype(dtype), "vocab", "fsdp_width")[tokens]
    parts = rules.constrain(parts, "data_batch", None, "fsdp_width")
    return rules.constrain(parts, "batch", None, None)


class Decoder(nn.Module):
    """Token ids to final hidden states. The vocabulary projection is `unembed`.

    Rows are either attended over `cache`, or as `packing` says, behind `prefix`.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, tokens, positions, cache=None, packing=None, prefix=None):
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        shape = (config.vocab_size, config.width)
        table = self.param("embedding", init, shape, jnp.float32)
        if not config.tied_embeddings:
            self.param("output", init, shape, jnp.float32)
        x = _look_up(table, tokens, dtype)
        if self.has_variable("scales", "embedding"):
            x *= self.get_variable("scales", "embedding")[tokens][..., None].astype(dtype)
        if config.embedding_scale != 1.0:
            x *= jnp.asarray(config.embedding_scale, dtype)
        make = nn.remat(Layer) if config.remat else Layer
        k, v = [], []
        for index in range(config.num_layers):
            layer = make(config, index, name=f"layer_{index}")
            held = None if cache is None else (cache.k[index], cache.v[index])
            shared = None if prefix is None else (prefix.k[index][0], prefix.v[index][0])
            x, held = layer(x, positions, held, packing, shared)
            if held is not None:
                k.append(held[0])
                v.append(held[1])
        x = _norm(config, "final_norm")(x)
        return x, None if cache is None else Cache(tuple(k), tuple(v))


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


def in_compute_dtype(config: DecoderConfig, weights: PyTree) -> PyTree:
    """Weights, or some of them, that compute the same in less memory, for copies only read."""
    dtype = jnp.dtype(config.compute_dtype)

    def cast(path, leaf):
        return leaf if _STAYS_FLOAT32 in jax.tree_util.keystr(path) else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, weights)


def init_cache(
    config: DecoderConfig, slots: int, length: int, dtype: Any, cuts: Sequence[int] = ()
) -> Cache:
    """An empty cache of `length` positions, in parts that end at `cuts` and at `length`."""
    ends = (*cuts, length)
    starts = (0, *cuts)

    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    heads, dim, layers = config.num_kv_heads, config.head_dim, range(config.num_layers)

    def empty(*shape):
        return jnp.zeros((slots, heads, *shape), dtype)

    return Cache(
        tuple(tuple(empty(dim, each) for each in lengths) for _ in layers),
        tuple(tuple(empty(each, dim) for each in lengths) for _ in layers),
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

    def embed(tokens):
        return _look_up(params["embedding"], tokens, dtype) * jnp.asarray(
            config.embedding_scale, dtype
        )

    x, before = embed(tokens), None
    if prefix is not None:
        empty = init_cache(dataclasses.replace(config, num_layers=1), 1, len(prefix), dtype)
        before = layer_loop.Prefix(embed(prefix[None]), empty.k[0], empty.v[0])
    axes = {"params": logical_axes(config), "lora": lora_logical_axes(config)}
    axes = {kind: axes[kind]["layer_0"] for kind in own}
    x = layer_loop.run(Layer(config, 0), layers, axes, x, positions, packing, before)
    norm = RMSNorm(config.rms_eps, config.unit_offset_norms)
    return norm.apply({"params": params["final_norm"]}, x)


def forward_cached(
    config: DecoderConfig,
    weights: Weights,
    tokens: Int[Array, "slot token"],
    positions: Int[Array, "slot token"],
    cache: Cache,
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
    """
    decoder = Decoder(_without_lora(config, weights))
    return decoder.apply(_variables(weights), tokens, positions, cache)


def unembed(
    config: DecoderConfig, weights: Weights, hidden: Float[Array, "*batch width"]
) -> Float[Array, "*batch vocab"]:
    """Logits in float32. The table stays [vocab, width] and is contracted on its last axis."""
    name = "embedding" if config.tied_embeddings else "output"
    table = weights.params[name].astype(hidden.dtype)
    if config.stacked:
        logits = times_transposed(hidden, table, preferred_element_type=jnp.float32)
    else:
        logits = jnp.einsum("...w,vw->...v", hidden, table, preferred_element_type=jnp.float32)
    if weights.scales is not None and name in weights.scales:
        logits *= weights.scales[name]
    if config.logit_softcap:
        logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
    return logits
