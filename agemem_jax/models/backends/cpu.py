"""CPUs: kernels in C++ for decoding and packed rows, and what helps XLA's CPU backend.

Without a C++ compiler, and for heads that do not divide into its vectors, attention is XLA's.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from agemem_jax.models.attention import Scoring
from agemem_jax.models.backends.plain import Plain
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.kernels import compiled, decode_cpu, forest_cpu, product_cpu
from agemem_jax.parallel import rules

_FEW_ROWS = 256
# Of mallopt(3): no mappings of their own for large blocks, nothing ever given back, one arena.
_MALLOC_OPTIONS = {-4: 0, -1: -1, -8: 1}


class Cpu(Plain):
    """See the module."""

    name = "cpu"
    device = "cpu"

    def gaps(
        self,
        model: DecoderConfig,
        cache_lengths: Sequence[int],
        chunk_lengths: Sequence[int],
        row_lengths: Sequence[int],
    ) -> list[str]:
        if compiled.supports(model.head_dim):
            return []
        return [
            f"Heads of {model.head_dim} do not divide by {compiled.LANES}, so the C++ kernels of "
            "attention are not used."
        ]

    def attention_paths(
        self, model: DecoderConfig, cache_lengths: Sequence[int], chunk_lengths: Sequence[int]
    ) -> dict[str, str]:
        by = "C++" if _has_kernels(model.head_dim) else "XLA"
        return {"decoding": by, "prefill": "XLA", "rows": by}

    def attend_cache(self, query, keys, values, positions, scoring: Scoring):
        if query.shape[1] > 1 or not _has_kernels(query.shape[-1]):
            return super().attend_cache(query, keys, values, positions, scoring)
        mixed = decode_cpu.attend(
            query[:, 0], keys, values, positions[:, 0],
            scale=scoring.scale, softcap=scoring.softcap, window=scoring.window,
        )  # fmt: skip
        return mixed[:, None]

    def _of_rows(self, query: Array, scoring: Scoring):
        if not _has_kernels(query.shape[-1]):
            return super()._of_rows(query, scoring)
        return forest_cpu.attend, scoring.tiling(forest_cpu.BLOCK, forest_cpu.BLOCK)

    def times(
        self, x: Float[Array, "*batch inputs"], matrix: Float[Array, "inputs outputs"]
    ) -> Float[Array, "*batch outputs"]:
        """x times `matrix`.

        On one device as a product of two matrices: with more axes, XLA turns what the gradient of
        `matrix` is computed from around, which takes a tenth of an update.
        """
        if rules.current_sizes():
            return x @ matrix  # axes that are split over a mesh cannot be made one
        return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])

    def times_transposed(
        self,
        x: Float[Array, "*batch inputs"],
        matrix: Float[Array, "outputs inputs"],
        **options: Any,
    ) -> Float[Array, "*batch outputs"]:
        """x times the transpose of `matrix`; `options` are those of `jax.lax.dot_general`.

        A kernel multiplies the fewest rows. Without it, few rows are multiplied from the right,
        between barriers that keep XLA from turning the product around: it is up to a third faster
        that way.
        """
        rows = x.reshape(-1, x.shape[-1])
        if product_cpu.suits(rows, matrix) and not rules.current_sizes():
            product = product_cpu.times_transposed(rows, matrix)
        elif len(rows) > _FEW_ROWS:
            product = jax.lax.dot_general(rows, matrix, (((1,), (1,)), ((), ())), **options)
        else:
            columns = jax.lax.optimization_barrier(rows.T)
            product = jax.lax.dot_general(matrix, columns, (((1,), (0,)), ((), ())), **options)
            product = jax.lax.optimization_barrier(product).T
        return product.reshape(*x.shape[:-1], len(matrix))


def _has_kernels(head_dim: int) -> bool:
    return compiled.supports(head_dim) and compiled.available()


def keep_freed_memory() -> None:
    """The C library keeps what arrays free for the next ones, as far as it is the GNU one.

    Memory fresh from the system is cleared page by page when it is first touched, which
    costs more than the arithmetic of many an array; XLA asks anew at every call. Call this
    before JAX is used: threads that have allocated keep arenas of their own.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    for option, value in _MALLOC_OPTIONS.items():
        set_option(option, value)
