"""What every device can do: attention and products as XLA compiles them."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from agemem_jax.models import attention
from agemem_jax.models.attention import Packing, Scoring
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.kernels import forest_blocks
from agemem_jax.models.kernels.forest import Tiling
from agemem_jax.models.kernels.forest_attention import forest_attention

Parts = Sequence[Array]


class Plain:
    """The decoder without any kernel, and what the backends of devices begin with.

    Attributes:
      name: as `DecoderConfig.backend` has it.
      device: kind of device that it needs; None runs anywhere.
      transposes_keys: whether caches hold keys as [head_dim, length], not like values.
      loops_layers: whether rollouts run alike layers in a loop, over stacked weights and caches,
        so that a program is compiled in the time of one layer.
      block: queries and keys that packed attention looks at together. Small ones follow the
        forest closely.
    """

    name: ClassVar[str] = "plain"
    device: ClassVar[str | None] = None
    transposes_keys: ClassVar[bool] = True
    loops_layers: ClassVar[bool] = False
    block: int = 64

    def check(self) -> None:
        """Whether this machine runs the backend.

        Raises:
          ValueError: it does not.
        """
        here = jax.default_backend()
        if self.device not in (None, "gpu" if here in ("cuda", "rocm") else here):
            raise ValueError(
                f"model.backend is {self.name!r}, whose kernels run on {self.device.upper()}s, and "
                f"this is a {here}; leave it at 'auto', or 'plain'."
            )

    def gaps(
        self,
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
        return []

    def attention_paths(
        self, model: DecoderConfig, cache_lengths: Sequence[int], chunk_lengths: Sequence[int]
    ) -> dict[str, str]:
        """What computes attention of "decoding", "prefill" and "rows", for people to read.

        Args:
          model, cache_lengths, chunk_lengths: see `gaps`.
        """
        return dict.fromkeys(("decoding", "prefill", "rows"), "XLA")

    def precision(self, compute_dtype: str) -> contextlib.AbstractContextManager:
        """Holds while products in `compute_dtype` are traced."""
        return contextlib.nullcontext()

    # --- Attention ---------------------------------------------------------------

    def attend_cache(
        self,
        query: Float[Array, "batch token head head_dim"],
        keys: Parts,
        values: Parts,
        positions: Int[Array, "batch token"],
        scoring: Scoring,
    ) -> Float[Array, "batch token head head_dim"]:
        """See `attention.attend_cache`; keys lie as `transposes_keys` says."""
        if not self.transposes_keys:
            keys = [each.swapaxes(2, 3) for each in keys]
        return attention.attend_cache(query, keys, values, positions, scoring)

    def attend_layer(
        self,
        query: Float[Array, "batch token head head_dim"],
        keys: Parts,
        values: Parts,
        layer: Int[Array, ""],
        positions: Int[Array, "batch token"],
        scoring: Scoring,
    ) -> Float[Array, "batch token head head_dim"]:
        """`attend_cache` to one of the layers that a cache holds along its first axis."""
        own = (
            [jax.lax.dynamic_index_in_dim(each, layer, keepdims=False) for each in parts]
            for parts in (keys, values)
        )
        return self.attend_cache(query, *own, positions, scoring)

    def attend_packed(
        self,
        query: Float[Array, "row token head head_dim"],
        keys: Float[Array, "row kv_head token head_dim"],
        values: Float[Array, "row kv_head token head_dim"],
        positions: Int[Array, "row token"],
        packing: Packing,
        prefix: tuple[Array, Array] | None,
        scoring: Scoring,
    ) -> Float[Array, "row token head head_dim"]:
        """Attention of every token to the path that leads to it.

        Args:
          query, keys, values: of the rows' tokens.
          positions: of the tokens in their sequences, the prefix counted where it is used.
          packing: how rows attend.
          prefix: keys and values of one row that all may share, as a cache holds them.
          scoring: how.
        """
        uses_prefix = packing.uses_prefix
        if prefix is None:
            uses_prefix = jnp.zeros_like(uses_prefix)
        else:
            before = prefix[0].swapaxes(2, 3) if self.transposes_keys else prefix[0], prefix[1]
            keys, values = (
                jnp.concatenate(
                    [jnp.broadcast_to(x, (len(own), *x.shape[1:])).astype(own.dtype), own], axis=2
                )
                for x, own in zip(before, (keys, values), strict=True)
            )
        attend, tiling = self._of_rows(query, scoring)
        mixed = forest_attention(
            attend, tiling, query.swapaxes(1, 2), keys, values, positions, packing.visible_to,
            uses_prefix,
        )  # fmt: skip
        return mixed.swapaxes(1, 2)

    def _of_rows(self, query: Array, scoring: Scoring) -> tuple[Callable[..., Array], Tiling]:
        """What attends along the paths of rows, and in which blocks."""
        return forest_blocks.attend, scoring.tiling(self.block, self.block)

    # --- Products ----------------------------------------------------------------

    def times(
        self, x: Float[Array, "*batch inputs"], matrix: Float[Array, "inputs outputs"]
    ) -> Float[Array, "*batch outputs"]:
        """x times `matrix`."""
        return x @ matrix

    def add_bias(
        self, product: Float[Array, "*batch outputs"], bias: Float[Array, " outputs"]
    ) -> Float[Array, "*batch outputs"]:
        """A product and its bias."""
        return product + bias

    def times_transposed(
        self,
        x: Float[Array, "*batch inputs"],
        matrix: Float[Array, "outputs inputs"],
        **options: Any,
    ) -> Float[Array, "*batch outputs"]:
        """x times the transpose of `matrix`; `options` are those of `jax.lax.dot_general`."""
        return jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (1,)), ((), ())), **options)


def cache_gaps(least: int, cache_lengths: Sequence[int], chunk_lengths: Sequence[int]) -> list[str]:
    """Why kernels that want multiples of `least` are not used for caches, as `gaps` tells it."""
    gaps = []
    if len(cache_lengths) > 1 or cache_lengths[-1] % least:
        gaps.append(
            f"engine.max_length is {cache_lengths[-1]} and engine.attend_buckets "
            f"{tuple(cache_lengths[:-1])}: the kernels for caches want a multiple of {least} "
            "and no buckets, so plain products take their place."
        )
    if wrong := [length for length in chunk_lengths if length % least]:
        gaps.append(
            f"engine.prefill_buckets has {wrong[0]}, which is no multiple of {least}: the "
            "kernel for prefill is not used for it."
        )
    return gaps
