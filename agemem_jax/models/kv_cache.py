"""Keys and values of what slots have read, by layer and by part.

Values lie as [slot, kv_head, length, head_dim]. Keys lie as plain products read them fastest,
[slot, kv_head, head_dim, length], or as kernels do, like values (see `Plain.transposes_keys`).
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from agemem_jax.models import backends
from agemem_jax.models.config import DecoderConfig

Parts = tuple[Array, ...]


@flax.struct.dataclass
class Cache:
    """Keys and values by layer and by part; of a layered model by part, as if of one layer.

    Arrays of a layered model have the layers as their first axis. Parts stand one behind the
    other. Attention to the first few costs nothing for the rest, and needs no slice, which
    would be a copy.
    """

    k: tuple[tuple[Float[Array, "slot kv_head _ _"], ...], ...]
    v: tuple[tuple[Float[Array, "slot kv_head length head_dim"], ...], ...]

    def first(self, parts: int) -> "Cache":
        """The first parts of every layer."""
        return Cache(*(tuple(layer[:parts] for layer in each) for each in (self.k, self.v)))

    def with_first(self, new: "Cache") -> "Cache":
        """This cache with its first parts replaced."""

        def replace(old, new):
            return tuple((*b, *a[len(b) :]) for a, b in zip(old, new, strict=True))

        return Cache(replace(self.k, new.k), replace(self.v, new.v))


def init_cache(
    config: DecoderConfig, slots: int, length: int, dtype: Any, cuts: Sequence[int] = ()
) -> Cache:
    """An empty cache of `length` positions, in parts that end at `cuts` and at `length`."""
    ends = (*cuts, length)
    starts = (0, *cuts)
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    heads, dim, layers = config.num_kv_heads, config.head_dim, range(config.num_layers)
    ahead = ()
    if config.layered:
        ahead, layers = (config.num_layers,), range(1)
    transposed = backends.get(config.backend).transposes_keys

    def empty(*shape):
        return jnp.zeros((*ahead, slots, heads, *shape), dtype)

    return Cache(
        tuple(
            tuple(empty(*((dim, each) if transposed else (each, dim))) for each in lengths)
            for _ in layers
        ),
        tuple(tuple(empty(each, dim) for each in lengths) for _ in layers),
    )


def write(
    key_parts: Parts,
    value_parts: Parts,
    keys: Float[Array, "slot token kv_head head_dim"],
    values: Float[Array, "slot token kv_head head_dim"],
    positions: Int[Array, "slot token"],
    *,
    transposed: bool,
    layer: Int[Array, ""] | None = None,
) -> tuple[Parts, Parts]:
    """A layer's parts with new tokens at `positions`; what lies past the end is dropped.

    Args:
      key_parts, value_parts: of the layer; of all layers, where there is a `layer`.
      keys, values: of the tokens.
      positions: where they stand.
      transposed: see `Plain.transposes_keys`; a layered cache never is.
      layer: which one of the first axis.
    """
    every, ahead = slice(None), () if layer is None else (layer,)
    if positions.size == 1:
        # XLA turns the scatter of a single token into an update that copies the whole cache
        # at every step. A second one, past the end, keeps it a scatter in place.
        keys, values = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (keys, values))
        end = sum(part.shape[-2] for part in value_parts)
        positions = jnp.pad(positions, ((0, 0), (0, 1)), constant_values=end)
    rows, start, written = jnp.arange(len(keys))[:, None], 0, []
    for held_keys, held_values in zip(key_parts, value_parts, strict=True):
        length = held_values.shape[-2]
        inside = jnp.where(positions >= start, positions - start, length)  # -1 would be the last
        if transposed:
            at_keys, at_values = (rows, every, every, inside), (rows, every, inside)
        else:
            # Every row by itself: where a scatter's windows have gaps, TPUs turn the cache around.
            heads = jnp.arange(keys.shape[2])
            at_keys = at_values = (*ahead, rows[..., None], heads, inside[..., None])
        new_keys, new_values = keys.astype(held_keys.dtype), values.astype(held_values.dtype)
        written.append(
            (
                held_keys.at[at_keys].set(new_keys, mode="drop"),
                held_values.at[at_values].set(new_values, mode="drop"),
            )
        )
        start += length
    return tuple(zip(*written, strict=True))
