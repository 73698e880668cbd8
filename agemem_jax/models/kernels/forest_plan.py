"""Which blocks of a forest's keys and queries have to do with one another, as lists.

A list says how many of its blocks are seen whole, by every query, which need no mask; how many are
seen at all; and, from entry `HEAD` on, the blocks, those seen whole first.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from agemem_jax.models.kernels.forest import Tiling, needed

HEAD = 4  # entries before the blocks, of which the first two say how many


def plan(
    tiling: Tiling, q_info: Int[Array, "row token 4"], k_info: Int[Array, "row 2 length"]
) -> tuple[Int[Array, "row q_block entry"], Int[Array, "row k_block entry"]]:
    """For blocks of queries the blocks of keys that they see, and the other way round.

    Args:
      tiling: with the sizes of blocks.
      q_info, k_info: see `forest.py`.
    """
    need = needed(tiling, q_info, k_info)
    rows, q_blocks, k_blocks = need.shape
    q = q_info.reshape(rows, q_blocks, 1, tiling.queries, 4)
    k = k_info.reshape(rows, 2, 1, k_blocks, tiling.keys)
    starts = jnp.arange(k_blocks) * tiling.keys
    whole = (need > 0) & (q[..., 0].max(-1) <= starts)
    whole &= q[..., 1].min(-1) >= starts + tiling.keys - 1
    whole &= q[..., 2].max(-1) < k[:, 0].min(-1)
    if tiling.window:
        whole &= q[..., 3].max(-1) - k[:, 1].min(-1) < tiling.window
    ranks = jnp.where(whole, 0, 2 - need)
    return _listed(ranks), _listed(ranks.swapaxes(1, 2))


def _listed(ranks: Int[Array, "row block other"]) -> Int[Array, "row block entry"]:
    """What has rank 0, then what has rank 1, behind the counts of the first and of both."""
    counts = jnp.stack([jnp.sum(ranks == 0, -1), jnp.sum(ranks < 2, -1)], axis=-1)
    order = jnp.argsort(ranks, axis=-1, stable=True)
    pad = -order.shape[-1] % 4  # whole pieces of 16 bytes, as GPUs copy them
    head = jnp.pad(counts, ((0, 0), (0, 0), (0, HEAD - 2)))
    return jnp.concatenate([head, jnp.pad(order, ((0, 0), (0, 0), (0, pad)))], -1).astype(jnp.int32)


def walks(
    lists: Int[Array, "row block entry"], steps: int
) -> Int[Array, "row block {HEAD}+{steps}"]:
    """Lists of `plan` for a pipeline that is told at each of its `steps` which block it needs, and
    fetches one where that changes.

    Behind its last block a list names that again, and a list without any the last one before.
    """
    order, counts = lists[..., HEAD : HEAD + steps], lists[..., 1]
    step = jnp.arange(steps)
    last = jnp.sum(jnp.where(step == counts[..., None] - 1, order, 0), axis=-1)
    owner = jax.lax.cummax(jnp.where(counts > 0, jnp.arange(counts.shape[1]), 0), axis=1)
    last = jnp.take_along_axis(last, owner, axis=1)[..., None]
    blocks = jnp.where(step < counts[..., None], order, last)
    return jnp.concatenate([lists[..., :HEAD], blocks], axis=-1)
