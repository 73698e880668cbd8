"""NVIDIA GPUs: Mosaic kernels for packed rows, prefill and decoding; layers in a loop.

The kernels want bfloat16, heads of 64 or 128, and a GPU of the H100's generation, whose tensor
cores they speak to; on others attention is XLA's. In float32 everything is, and products are
exact: not in TF32.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from agemem_jax.models.attention import Scoring
from agemem_jax.models.backends.plain import Parts, Plain, cache_gaps
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.kernels import decode_cuda, forest_cuda
from agemem_jax.models.kernels.forest_attention import cache_attention

_FEW_ROWS = 256
_GENERATION = "9."  # how the compute capability of H100 and H200 begins


@dataclasses.dataclass(frozen=True)
class Cuda(Plain):
    """See the module.

    Attributes:
      interpret: whether kernels run by Pallas' interpreter, slowly and anywhere, for tests.
    """

    interpret: bool = False

    transposes_keys = False
    loops_layers = True

    @property
    def name(self) -> str:
        return "cuda_interpreted" if self.interpret else "cuda"

    @property
    def device(self) -> str | None:
        return None if self.interpret else "gpu"

    def precision(self, compute_dtype: str) -> contextlib.AbstractContextManager:
        if compute_dtype == "float32":
            return jax.default_matmul_precision("highest")
        return contextlib.nullcontext()

    def gaps(
        self,
        model: DecoderConfig,
        cache_lengths: Sequence[int],
        chunk_lengths: Sequence[int],
        row_lengths: Sequence[int],
    ) -> list[str]:
        if model.compute_dtype == "float32":
            return [
                "model.compute_dtype is float32: attention and all products are exact, and many "
                "times slower than in bfloat16."
            ]
        if not _has_kernels():
            return [
                f"This GPU is a {jax.local_devices()[0].device_kind}, and the kernels of attention "
                "are for H100 and H200: XLA's products take their place."
            ]
        if model.head_dim not in forest_cuda.HEAD_DIMS:
            return [
                f"Heads of {model.head_dim} do not suit the kernels of GPUs, which take "
                f"{' or '.join(map(str, forest_cuda.HEAD_DIMS))}: XLA's products take their place."
            ]
        return cache_gaps(forest_cuda.BLOCK, cache_lengths, chunk_lengths)

    def attention_paths(
        self, model: DecoderConfig, cache_lengths: Sequence[int], chunk_lengths: Sequence[int]
    ) -> dict[str, str]:
        suits = model.compute_dtype != "float32" and model.head_dim in forest_cuda.HEAD_DIMS
        suits = suits and _has_kernels()
        whole = suits and len(cache_lengths) == 1 and cache_lengths[-1] % forest_cuda.BLOCK == 0
        chunks = whole and not any(length % forest_cuda.BLOCK for length in chunk_lengths)
        by = {True: "Mosaic", False: "XLA"}
        return {"decoding": by[whole], "prefill": by[chunks], "rows": by[suits]}

    def attend_cache(self, query, keys, values, positions, scoring: Scoring):
        """A kernel runs where the cache is one part that divides into blocks, as must a chunk."""
        return self._attend(query, keys, values, positions, scoring, None)

    def attend_layer(self, query, keys: Parts, values: Parts, layer, positions, scoring: Scoring):
        return self._attend(query, keys, values, positions, scoring, layer)

    def _attend(self, query, keys, values, positions, scoring, layer):
        tiling = scoring.tiling(forest_cuda.BLOCK, forest_cuda.BLOCK, interpret=self.interpret)
        one_token = query.shape[1] == 1 and len(keys) == 1 and _has_kernels()
        if one_token and decode_cuda.suits(query[:, 0], keys[0]):
            held = [x if layer is not None else x[None] for x in (keys[0], values[0])]
            place = jnp.int32(0) if layer is None else layer
            mixed = decode_cuda.attend(query[:, 0], *held, place, positions[:, 0], tiling)
            return mixed[:, None]
        if layer is not None:
            return super().attend_layer(query, keys, values, layer, positions, scoring)
        if len(keys) > 1 or not _suit_chunk(query, keys[0]):
            return super().attend_cache(query, keys, values, positions, scoring)
        mixed = cache_attention(
            forest_cuda.attend, tiling, query.swapaxes(1, 2), keys[0], values[0], positions
        )
        return mixed.swapaxes(1, 2)

    def add_bias(
        self, product: Float[Array, "*batch outputs"], bias: Float[Array, " outputs"]
    ) -> Float[Array, "*batch outputs"]:
        """A product and its bias; of few rows apart.

        With a bias inside of cuBLAS' product, XLA does not read its matrix in place.
        """
        few = product.size // product.shape[-1] <= _FEW_ROWS
        return (jax.lax.optimization_barrier(product) if few else product) + bias

    def _of_rows(self, query: Array, scoring: Scoring):
        if not _suit(query):
            return super()._of_rows(query, scoring)
        block = forest_cuda.BLOCK
        return forest_cuda.attend, scoring.tiling(block, block, interpret=self.interpret)


def _has_kernels() -> bool:
    """Whether the GPU is one that the kernels are for, as are those that are only described."""
    if jax.default_backend() != "gpu":
        return True
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    return str(capability).startswith(_GENERATION)


def _suit(query: Array) -> bool:
    half = (jnp.bfloat16, jnp.float16)
    return query.dtype in half and query.shape[-1] in forest_cuda.HEAD_DIMS and _has_kernels()


def _suit_chunk(query: Array, keys: Array) -> bool:
    """Whether a chunk of tokens and its cache are what the kernel for rows computes."""
    sizes = query.shape[1], keys.shape[2]
    same = query.dtype == keys.dtype
    return _suit(query) and same and not any(size % forest_cuda.BLOCK for size in sizes)
