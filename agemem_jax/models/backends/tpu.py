"""TPUs: Pallas kernels for packed rows, prefill and decoding."""

import dataclasses
from collections.abc import Sequence

from jaxtyping import Array

from agemem_jax.models.attention import Scoring
from agemem_jax.models.backends.plain import Plain, cache_gaps
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.kernels import decode_pallas, forest_pallas
from agemem_jax.models.kernels.forest_attention import cache_attention

# A TPU reads needed keys once for each block of queries, which takes longer than their products
# below 512 where no heads share keys; where many do, the kernel halves the block of queries.
BLOCKS = (512, 256, 128)


@dataclasses.dataclass(frozen=True)
class Tpu(Plain):
    """See the module.

    Attributes:
      interpret: whether kernels run as plain JAX, slowly and anywhere, for tests.
      block: queries and keys of a row's block, where no larger one divides the row.
    """

    interpret: bool = False
    block: int = BLOCKS[-1]

    transposes_keys = False

    @property
    def name(self) -> str:
        return "tpu_interpreted" if self.interpret else "tpu"

    @property
    def device(self) -> str | None:
        return None if self.interpret else "tpu"

    def gaps(
        self,
        model: DecoderConfig,
        cache_lengths: Sequence[int],
        chunk_lengths: Sequence[int],
        row_lengths: Sequence[int],
    ) -> list[str]:
        least = BLOCKS[-1]
        gaps = cache_gaps(least, cache_lengths, chunk_lengths)
        if wrong := [length for length in row_lengths if length % least]:
            gaps.append(
                f"packing.row_lengths has {wrong[0]}, which is no multiple of {least}: rows are "
                "padded to one for the kernel."
            )
        return gaps

    def attention_paths(
        self, model: DecoderConfig, cache_lengths: Sequence[int], chunk_lengths: Sequence[int]
    ) -> dict[str, str]:
        whole = len(cache_lengths) == 1 and _dividing(cache_lengths[-1]) > 0
        chunks = whole and all(map(_dividing, chunk_lengths))
        by = {True: "Pallas", False: "XLA"}
        return {"decoding": by[whole], "prefill": by[chunks], "rows": by[True]}

    def attend_cache(self, query, keys, values, positions, scoring: Scoring):
        """A kernel runs where the cache is one part that divides into blocks, as must a chunk."""
        tokens, length = query.shape[1], values[0].shape[2]
        block, queries = (_dividing(size) for size in (length, tokens))
        if len(keys) > 1 or not block or tokens > 1 and not queries:
            return super().attend_cache(query, keys, values, positions, scoring)
        tiling = scoring.tiling(queries or 1, block, interpret=self.interpret)
        if tokens == 1:
            mixed = decode_pallas.attend(query[:, 0], keys[0], values[0], positions[:, 0], tiling)
            return mixed[:, None]
        held = (x.astype(query.dtype) for x in (keys[0], values[0]))
        mixed = cache_attention(
            forest_pallas.attend, tiling, query.swapaxes(1, 2), *held, positions
        )
        return mixed.swapaxes(1, 2)

    def _of_rows(self, query: Array, scoring: Scoring):
        block = _dividing(query.shape[1]) or self.block
        return forest_pallas.attend, scoring.tiling(block, block, interpret=self.interpret)


def _dividing(length: int) -> int:
    """The largest block that divides `length`; 0 where none does."""
    return next((size for size in BLOCKS if length % size == 0), 0)
