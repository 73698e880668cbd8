"""Attention of one new token per slot over the slot's cache on CPUs, by decode_cpu.cc.

XLA's CPU backend computes these products on one thread, and all slots to the same length. Here
each slot reads its cache as far as it is filled, and slots are shared between threads.

Axis order: keys [slot, kv_head, head_dim, length] and values [slot, kv_head, length, head_dim], as
plain products want them too.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from agemem_jax.models.kernels import compiled

_TARGET = "agemem_decode_attention"


def attend(
    query: Float[Array, "slot head head_dim"],
    keys: Sequence[Float[Array, "slot kv_head head_dim length"]],
    values: Sequence[Float[Array, "slot kv_head length head_dim"]],
    positions: Int[Array, " slot"],
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
) -> Float[Array, "slot head head_dim"]:
    """Attention of the tokens at `positions`, whose keys and values are in the cache.

    Args:
      query: one token of each slot.
      keys, values: the parts of the cache, one behind the other, in float32 or bfloat16.
      positions: where the tokens stand; one past the cache is idle, and gets zeros.
      scale, softcap, window: see `attention.Scoring`.

    Raises:
      ValueError: the kernel cannot be compiled, or heads do not divide into vectors.
    """
    compiled.check_heads(query.shape[-1])
    mixed = compiled.call(_TARGET, jax.ShapeDtypeStruct(query.shape, jnp.float32))(
        query.astype(jnp.float32), positions.astype(jnp.int32), *keys, *values,
        scale=np.float32(scale), softcap=np.float32(softcap), window=np.int64(window),
    )  # fmt: skip
    return mixed.astype(query.dtype)
