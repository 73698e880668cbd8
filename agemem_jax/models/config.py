"""The shape of a decoder as data; every family of models is a value of this type."""

import dataclasses

DTYPES = ("float32", "bfloat16")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A Llama-architecture decoder. Hashable, so that it is static to `jax.jit`.

    Attributes:
      vocab_size: tokens of the embedding table.
      num_layers, width: of the residual stream.
      num_heads, num_kv_heads, head_dim: grouped-query attention.
      ffn_width: hidden width of the SwiGLU layer.
      rope_theta: base of the rotary embedding.
      rms_eps: epsilon of RMSNorm.
      qkv_bias: whether queries, keys and values have a bias, as in Qwen2.
      tied_embeddings: whether the output projection is the embedding table.
      max_positions: longest sequence that the model was made for.
      lora_rank: 0 is no LoRA; scale is `lora_alpha / lora_rank` on `lora_targets`.
      compute_dtype: "float32" or "bfloat16"; parameters stay float32.
      remat: recompute layers in the backward pass instead of keeping activations.
    """

    vocab_size: int
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_width: int
    rope_theta: float = 10_000.0
    rms_eps: float = 1e-5
    qkv_bias: bool = False
    tied_embeddings: bool = True
    max_positions: int = 8192
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = LORA_TARGETS
    compute_dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads is {self.num_heads} and num_kv_heads {self.num_kv_heads}; the first "
                "must be a multiple of the second."
            )
        if self.compute_dtype not in DTYPES:
            raise ValueError(
                f"compute_dtype is {self.compute_dtype!r}; it must be one of {', '.join(DTYPES)}."
            )
        unknown = sorted(set(self.lora_targets) - set(LORA_TARGETS))
        if unknown:
            raise ValueError(
                f"lora_targets names {unknown[0]!r}; known targets: {', '.join(LORA_TARGETS)}."
            )
