"""Grouped-query attention as functions of arrays.

Caches are attended with a mask; packed rows along the paths of a forest, behind a prefix
that all rows may share. Axis order: [batch, token, head, head_dim]
for queries, [batch, kv_head, length, head_dim] for keys and values, as products want them.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.kernels import compiled, decode_cpu, decode_pallas, forest_cpu
from agemem_jax.models.kernels.forest import MASKED, Tiling, uses_pallas
from agemem_jax.models.kernels.forest_attention import cache_attention, forest_attention

# Queries and keys per block of packed attention. Small ones follow the forest closely. A TPU reads
# all keys once for each block of queries, which takes longer than their products below 512.
BLOCK = 64
KERNEL_BLOCKS = (512, 256, 128)


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How scores come about.

    Attributes:
      scale: what the products of queries and keys are multiplied with.
      softcap: c of c * tanh(score / c); 0 is none.
      window: how many tokens back attention reaches, the token itself counted; 0 is all.
      implementation: see `DecoderConfig.attention`.
    """

    scale: float
    softcap: float = 0.0
    window: int = 0
    implementation: str = "plain"

    def tiling(self, queries: int, keys: int) -> Tiling:
        """The settings of a kernel with blocks of these sizes."""
        return Tiling(self.scale, self.softcap, self.window, queries, keys, self.implementation)


def choose_implementation(configured: str, head_dim: int) -> str:
    """What "auto" means for the default device, and "cpp" for heads that its vectors do not fit."""
    chosen = configured
    if configured == "auto":
        backend = jax.default_backend()
        with_compiler = backend == "cpu" and compiled.available()
        chosen = "pallas" if backend == "tpu" else "cpp" if with_compiler else "plain"
    return "plain" if chosen == "cpp" and not compiled.supports(head_dim) else chosen


def check_device(configured: str) -> None:
    """Whether this machine runs the attention that is configured.

    Raises:
      ValueError: it does not.
    """
    device = jax.default_backend()
    if configured == "pallas" and device != "tpu":
        raise ValueError(
            f"model.attention is 'pallas', whose kernels run on TPUs, and this is a {device}; "
            "leave it at 'auto', or 'plain'."
        )
    if configured == "cpp" and device != "cpu":
        raise ValueError(
            f"model.attention is 'cpp', whose kernels run on CPUs, and this is a {device}; leave "
            "it at 'auto', or 'plain'."
        )
    if configured == "cpp" and not compiled.available():
        raise ValueError(
            "model.attention is 'cpp', which needs a C++ compiler, and none was found: install "
            "g++ or clang, or name one by CXX; or leave it at 'auto'."
        )


def unused_kernels(
    model: DecoderConfig,
    cache_lengths: Sequence[int],
    chunk_lengths: Sequence[int],
    row_lengths: Sequence[int],
) -> list[str]:
    """Why plain products stand in for a kernel that the device has, one sentence each.

    Args:
      model: whose attention it is.
      cache_lengths: lengths that a cache is cut to, ascending.
      chunk_lengths: of prefilled chunks.
      row_lengths: of packed rows.
    """
    chosen = choose_implementation(model.attention, model.head_dim)
    wanted = choose_implementation(model.attention, compiled.LANES)
    if wanted == "cpp" != chosen:
        return [
            f"Heads of {model.head_dim} do not divide by {compiled.LANES}, so the C++ kernels of "
            "attention are not used."
        ]
    if not uses_pallas(chosen):
        return []
    least, gaps = KERNEL_BLOCKS[-1], []
    if len(cache_lengths) > 1 or cache_lengths[-1] % least:
        gaps.append(
            f"engine.max_length is {cache_lengths[-1]} and engine.attend_buckets "
            f"{tuple(cache_lengths[:-1])}: the kernels for caches want a multiple of {least} and "
            "no buckets, so plain products take their place."
        )
    if wrong := [length for length in chunk_lengths if length % least]:
        gaps.append(
            f"engine.prefill_buckets has {wrong[0]}, which is no multiple of {least}: the kernel "
            "for prefill is not used for it."
        )
    if wrong := [length for length in row_lengths if length % least]:
        gaps.append(
            f"packing.row_lengths has {wrong[0]}, which is no multiple of {least}: rows are padded "
            "to one for the kernel."
        )
    return gaps


def transposes_keys(configured: str) -> bool:
    """Whether caches hold keys as [head_dim, length], as all want them but the kernels of TPUs."""
    on_tpu = configured == "auto" and jax.default_backend() == "tpu"
    return not (on_tpu or uses_pallas(configured))


def cache_mask(
    positions: Int[Array, "batch token"], length: int, window: int
) -> Bool[Array, "batch token length"]:
    """What tokens at `positions` see of a cache: themselves, and back to the window's end."""
    distance = positions[:, :, None] - jnp.arange(length)
    mask = distance >= 0
    return mask & (distance < window) if window else mask


def attend_cache(
    query: Float[Array, "batch token head head_dim"],
    keys: Sequence[Float[Array, "batch kv_head _ _"]],
    values: Sequence[Float[Array, "batch kv_head length head_dim"]],
    positions: Int[Array, "batch token"],
    scoring: Scoring,
) -> Float[Array, "batch token head head_dim"]:
    """Attention of tokens at `positions` to a cache that holds them and what came before.

    Args:
      query: of the tokens.
      keys, values: the parts of the cache, one behind the other; keys as `transposes_keys` says.
      positions: where the tokens stand.
      scoring: how. A kernel of TPUs runs where the cache is one part that divides into its
        blocks, as must several tokens.
    """
    tokens, length = query.shape[1], values[0].shape[2]
    if scoring.implementation == "cpp" and tokens == 1:
        mixed = decode_cpu.attend(
            query[:, 0], keys, values, positions[:, 0],
            scale=scoring.scale, softcap=scoring.softcap, window=scoring.window,
        )  # fmt: skip
        return mixed[:, None]
    block = next((size for size in KERNEL_BLOCKS if length % size == 0), 0)
    if uses_pallas(scoring.implementation) and len(keys) == 1 and block:
        if tokens == 1:
            tiling = scoring.tiling(1, block)
            mixed = decode_pallas.attend(query[:, 0], keys[0], values[0], positions[:, 0], tiling)
            return mixed[:, None]
        queries = next((size for size in KERNEL_BLOCKS if tokens % size == 0), 0)
        if queries:
            held = (x.astype(query.dtype) for x in (keys[0], values[0]))
            tiling = scoring.tiling(queries, block)
            return cache_attention(query.swapaxes(1, 2), *held, positions, tiling).swapaxes(1, 2)
    parts, start = [], 0
    for key, value in zip(keys, values, strict=True):
        mask = cache_mask(positions - start, value.shape[2], scoring.window)
        key = key if transposes_keys(scoring.implementation) else key.swapaxes(2, 3)
        parts.append((key.astype(query.dtype), value.astype(query.dtype), mask))
        start += value.shape[2]
    return _attend_parts(query, parts, scoring)


def _attend_parts(query, parts, scoring: Scoring):
    """Attention over several (keys, values, mask), as if they stood one after another."""
    batch, tokens, heads, dim = query.shape
    kv_heads = parts[0][0].shape[-3]
    rows = query.reshape(batch, tokens, kv_heads, heads // kv_heads, dim)
    rows = jnp.moveaxis(rows, 1, 3)  # [batch, kv_head, group, token, head_dim]
    split, rows = rows.shape, rows.reshape(batch, kv_heads, -1, dim)
    scores = []
    for keys, _, mask in parts:
        score = _product(rows, keys, preferred_element_type=jnp.float32)
        score = scoring.scale * score.reshape(*split[:-1], -1)
        if scoring.softcap:
            score = scoring.softcap * jnp.tanh(score / scoring.softcap)
        scores.append(jnp.where(mask[:, None, None], score, MASKED))
    probabilities = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    probabilities = probabilities.reshape(*rows.shape[:-1], -1)
    mixed, start = 0.0, 0
    for keys, values, _ in parts:
        length = keys.shape[-1]
        share = probabilities[..., start : start + length].astype(values.dtype)
        mixed, start = mixed + _product(share, values), start + length
    return jnp.moveaxis(mixed.reshape(split), 3, 1).reshape(batch, tokens, heads, dim)


def _product(left, right, **options):
    """[batch, kv_head, x, y] times [batch, kv_head, y, z].

    Not an einsum, which may choose the other order of its operands: XLA's CPU backend
    computes the values' product five times as slow then.
    """
    sides = (((3,), (2,)), ((0, 1), (0, 1)))
    return jax.lax.dot_general(left, right, sides, **options)


@flax.struct.dataclass
class Packing:
    """How packed rows attend.

    Attributes:
      visible_to: index behind the last token of the row that attends to this one. Tokens
        stand in the order of a walk through a forest, so that a token's followers are the
        neighbours behind it, as far as their common path goes; 0 is padding, which nothing
        attends to.
      uses_prefix: whether a token also attends to the shared prefix.
    """

    visible_to: Int[Array, "row token"]
    uses_prefix: Bool[Array, "row token"]


def attend_packed(query, keys, values, positions, packing: Packing, prefix, scoring: Scoring):
    """Attention of every token to the path that leads to it."""
    uses_prefix = packing.uses_prefix
    if prefix is None:
        uses_prefix = jnp.zeros_like(uses_prefix)
    else:
        before_keys, before_values = prefix
        if transposes_keys(scoring.implementation):
            before_keys = before_keys.swapaxes(2, 3)
        shared = (
            jnp.broadcast_to(x, (keys.shape[0], *x.shape[1:])) for x in (before_keys, before_values)
        )
        keys, values = (
            jnp.concatenate([before.astype(own.dtype), own], axis=2)
            for before, own in zip(shared, (keys, values), strict=True)
        )
    block = BLOCK
    if scoring.implementation == "cpp":
        block = forest_cpu.BLOCK
    elif uses_pallas(scoring.implementation):
        tokens = query.shape[1]
        block = next((b for b in KERNEL_BLOCKS if tokens % b == 0), KERNEL_BLOCKS[-1])
    mixed = forest_attention(
        query.swapaxes(1, 2), keys, values, positions, packing.visible_to, uses_prefix,
        scoring.tiling(block, block),
    )  # fmt: skip
    return mixed.swapaxes(1, 2)
