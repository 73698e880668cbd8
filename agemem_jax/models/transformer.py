"""The decoder's Flax modules, from a projection to the whole.

Axis order: [batch, token, ...]. LoRA matrices, and the scales of int8 parameters, live in
collections of their own.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from agemem_jax.models import backends
from agemem_jax.models.attention import Scoring
from agemem_jax.models.backends.plain import Plain
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.experts import MixtureOfExperts
from agemem_jax.models.kv_cache import Cache, write
from agemem_jax.models.layers import ACTIVATE, RMSNorm, scaled
from agemem_jax.models.rope import rotate
from agemem_jax.parallel import collectives, rules


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
        backend = backends.get(config.backend)
        product = backend.times_transposed if config.stacked else backend.times
        y = scaled(self, "kernel", product(x, kernel))
        if self.bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.axes[1:])
            bias = self.param("bias", init, (self.features,), jnp.float32).astype(dtype)
            y = backend.add_bias(y, bias)
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


# The norms whose scales layered weights hold in the matrix behind: norm, part of the layer, matrix.
FOLDED_NORMS = {
    "attention_norm": ("attention", "qkv_proj"),
    "mlp_norm": ("mlp", "gate_up_proj"),
}


def _norm(config: DecoderConfig, name: str) -> RMSNorm:
    folded = config.layered and name in FOLDED_NORMS
    return RMSNorm(config.rms_eps, config.unit_offset_norms, not folded, name=name)


class Attention(nn.Module):
    """Self-attention over packed rows, or over a slot's cache."""

    config: DecoderConfig
    index: int  # of the layer

    @nn.compact
    def __call__(self, x, positions, cache, packing, prefix, layer=None):
        config = self.config
        batch, tokens, _ = x.shape
        window = config.window(self.index)
        rope = config.local_rope if window and config.local_rope else config.rope
        scale = config.attention_scale or config.head_dim**-0.5
        backend = backends.get(config.backend)
        scoring = Scoring(scale, config.attention_softcap, window)

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
            mixed = _attend_packed(
                backend, scoring, query, keys, values, positions, packing, prefix
            )  # fmt: skip
        else:
            mixed, cache = _attend_cache(
                backend, scoring, query, keys, values, positions, cache, layer
            )  # fmt: skip
        mixed = mixed.reshape(batch, tokens, -1)
        mixed = Projection(config, config.width, ("heads", "embed"), name="o_proj")(mixed)
        return mixed, cache


# Logical axes of what attention takes and gives.
_TOKENS, _HEADS = ("batch", None), ("batch", None, "heads", None)
_KV_HEADS, _HELD = ("batch", None, "kv_heads", None), ("batch", "kv_heads", None, None)


def _attend_packed(
    backend: Plain, scoring: Scoring, query, keys, values, positions, packing, prefix
):
    """Each device attends along its own rows, with its own heads."""
    kv = [x.swapaxes(1, 2) for x in (keys, values)]
    prefix = () if prefix is None else prefix

    def attend(query, keys, values, positions, packing, prefix):
        mixed = backend.attend_packed(
            query, keys, values, positions, packing, prefix or None, scoring
        )  # fmt: skip
        return (mixed,)

    names = (_HEADS, _HELD, _HELD, _TOKENS, _TOKENS, _HELD)
    return rules.per_shard(attend, names, (_HEADS,), query, *kv, positions, packing, prefix)[0]


def _attend_cache(backend: Plain, scoring: Scoring, query, keys, values, positions, cache, layer):
    """Each device writes and reads the caches of its own slots and heads."""

    if layer is not None:
        cache = write(*cache, keys, values, positions, transposed=False, layer=layer)
        return backend.attend_layer(query, *cache, layer, positions, scoring), cache

    def attend(query, keys, values, places, positions, cache):
        cache = write(*cache, keys, values, places, transposed=backend.transposes_keys)
        return backend.attend_cache(query, *cache, positions, scoring), cache

    # Of a prefix, each device has some tokens, and they attend to all.
    held = collectives.all_tokens(keys, values, positions, axes=rules.BATCH)
    names = (_HEADS, _KV_HEADS, _KV_HEADS, _TOKENS, _TOKENS, _HELD)
    return rules.per_shard(attend, names, (_HEADS, _HELD), query, *held, positions, cache)


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
    """Pre-norm attention and feed-forward with residuals.

    With `layer`, the cache is that of all layers, of which it is one.
    """

    config: DecoderConfig
    index: int

    @nn.compact
    def __call__(self, x, positions, cache, packing, prefix, layer=None):
        config = self.config
        y = _norm(config, "attention_norm")(x)
        attention = Attention(config, self.index, name="attention")
        y, cache = attention(y, positions, cache, packing, prefix, layer)
        x = x + (_norm(config, "attention_post_norm")(y) if config.post_norms else y)
        feed_forward = MixtureOfExperts if config.has_experts(self.index) else FeedForward
        y = feed_forward(config, name="mlp")(_norm(config, "mlp_norm")(x))
        x = x + (_norm(config, "mlp_post_norm")(y) if config.post_norms else y)
        return rules.split_tokens(x), cache


def look_up(table, tokens, dtype):
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
        x = look_up(table, tokens, dtype)
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
