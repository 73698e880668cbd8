"""What all ways of computing attention along the paths of a forest share: masks and blocks.

Of a query is known (`q_info`, last axis): the first key that it sees, the last one, its
index in the row, and its position in its sequence. Of a key is known (`k_info`, second last
axis): the index behind the last query that sees it, and its position.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e30  # finite, so that a row that sees nothing gives no NaN


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Static settings.

    Attributes:
      scale, softcap, window: see `attention.Scoring`.
      queries, keys: tokens of a block.
      interpret: whether a kernel runs as plain JAX, for tests without its device.
    """

    scale: float
    softcap: float = 0.0
    window: int = 0
    queries: int = 128
    keys: int = 128
    interpret: bool = False


def mask(
    tiling: Tiling,
    q_info: Int[Array, "*block query 4"],
    k_info: Int[Array, "*block 2 key"],
    key_start: Int[Array, "*#block"],
) -> Bool[Array, "*block query key"]:
    """Which query of a block sees which key of a block that starts at `key_start`."""
    shape = (q_info.shape[-2], k_info.shape[-1])
    index = key_start + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    queries = (q_info[..., i : i + 1] for i in range(4))
    return _sees(tiling, queries, (k_info[..., 0:1, :], k_info[..., 1:2, :]), index)


def mask_by_key(
    tiling: Tiling,
    q_info: Int[Array, "*block 4 query"],
    k_info: Int[Array, "*block 2 key"],
    key_start: Int[Array, "*#block"],
) -> Bool[Array, "*block key query"]:
    """`mask`, turned around; `q_info`, too, so that neighbours in memory are compared at once."""
    shape = (k_info.shape[-1], q_info.shape[-1])
    index = key_start + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    queries = (q_info[..., i : i + 1, :] for i in range(4))
    return _sees(tiling, queries, (k_info[..., 0, :, None], k_info[..., 1, :, None]), index)


def _sees(tiling: Tiling, queries, keys, index):
    (first, last, order, position), (seen_until, key_position) = queries, keys
    seen = (index >= first) & (index <= last) & (order < seen_until)
    if tiling.window:
        seen &= position - key_position < tiling.window
    return seen


def needed(
    tiling: Tiling, q_info: Int[Array, "row query 4"], k_info: Int[Array, "row 2 key"]
) -> Int[Array, "row q_block k_block"]:
    """Which blocks of keys hold anything for which blocks of queries."""
    rows = q_info.shape[0]
    q = q_info.reshape(rows, -1, tiling.queries, 4)
    k = k_info.reshape(rows, 2, -1, tiling.keys)
    starts = jnp.arange(k.shape[2]) * tiling.keys
    ends = starts + tiling.keys
    padding = q[..., 1] < 0
    most = jnp.iinfo(jnp.int32).max
    first_keys, orders = (jnp.where(padding, most, q[..., i]).min(axis=2) for i in (0, 2))
    before = starts <= q[..., 1].max(axis=2)[:, :, None]
    behind = ends > first_keys[:, :, None]
    alive = k[:, 0].max(axis=2)[:, None] > orders[:, :, None]
    need = before & behind & alive
    if tiling.window:
        nearest = jnp.where(padding, most, q[..., 3]).min(axis=2) - tiling.window
        need &= k[:, 1].max(axis=2)[:, None] > nearest[:, :, None]
    return need.astype(jnp.int32)


def bend(
    tiling: Tiling, products: Float[Array, "*block query key"]
) -> tuple[Float[Array, "*block query key"], Float[Array, "*block query key"] | None]:
    """Scores from products of queries and keys, and the softcap's tanh where there is one."""
    scores = products * tiling.scale
    if not tiling.softcap:
        return scores, None
    bent = jnp.tanh(scores / tiling.softcap)
    return tiling.softcap * bent, bent
