"""The shape of a decoder as data; every family of models is a value of this type."""

import dataclasses

from agemem_jax.models.rope import Rope

DTYPES = ("float32", "bfloat16")
ACTIVATIONS = ("silu", "gelu_tanh")
BACKENDS = ("auto", "plain", "cpu", "cuda", "cuda_interpreted", "tpu", "tpu_interpreted")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A decoder-only transformer. Hashable, so that it is static to `jax.jit`.

    Attributes:
      vocab_size: tokens of the embedding table.
      num_layers, width: of the residual stream.
      num_heads, num_kv_heads, head_dim: grouped-query attention.
      ffn_width: hidden width of the gated feed-forward layer.
      rope: rotary embedding.
      local_rope: that of layers with a window, where it differs (Gemma 3).
      windows: per layer, how many tokens back attention reaches, the token itself
        counted; 0 is all. Empty means 0 everywhere.
      attention_scale: what scores are multiplied with; default: head_dim ** -0.5.
      attention_softcap, logit_softcap: c of c * tanh(x / c) on scores and logits; 0 is
        none (Gemma 2).
      activation: "silu" or "gelu_tanh", of the gate.
      rms_eps: epsilon of RMSNorm.
      unit_offset_norms: norms multiply by 1 + scale (Gemma).
      post_norms: norms behind attention and feed-forward as well (Gemma 2 and 3).
      qk_norm: RMSNorm on each query and key head (Qwen3, Gemma 3).
      qkv_bias: whether queries, keys and values have a bias (Qwen2).
      embedding_scale: what embeddings are multiplied with, but not the output (Gemma).
      tied_embeddings: whether the output projection is the embedding table.
      num_experts: 0 for a dense feed-forward layer, else a mixture of experts.
      experts_per_token, expert_width: top k of the router; hidden width of one expert.
      renormalise_experts: the shares of the k chosen experts are made to add up to 1.
      dense_layers: layers without experts in a model with experts.
      max_positions: longest sequence that the model was made for.
      lora_rank: 0 is no LoRA; scale is `lora_alpha / lora_rank` on `lora_targets`, in a
        model with experts on those of attention only.
      lora_dropout: rate of dropout in front of the LoRA matrices while training.
      compute_dtype: "float32" or "bfloat16"; parameters stay as they are.
      remat: recompute layers in the backward pass instead of keeping activations.
      backend: how it runs on a device (see `models/backends`): "plain", as XLA compiles it
        for any; "cpu", "cuda" or "tpu", with the kernels of that kind of device; "auto" takes
        what suits the default one. "cuda_interpreted" and "tpu_interpreted" run kernels
        anywhere, slowly.
      stacked, layered: whether parameters are as `stacking.py` orders them, for rollouts.
    """

    vocab_size: int
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_width: int
    rope: Rope = Rope()
    local_rope: Rope | None = None
    windows: tuple[int, ...] = ()
    attention_scale: float | None = None
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    activation: str = "silu"
    rms_eps: float = 1e-5
    unit_offset_norms: bool = False
    post_norms: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    embedding_scale: float = 1.0
    tied_embeddings: bool = True
    num_experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    renormalise_experts: bool = True
    dense_layers: tuple[int, ...] = ()
    max_positions: int = 8192
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = LORA_TARGETS
    lora_dropout: float = 0.0
    compute_dtype: str = "float32"
    remat: bool = False
    backend: str = "auto"
    stacked: bool = False
    layered: bool = False

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads is {self.num_heads} and num_kv_heads {self.num_kv_heads}; the first "
                "must be a multiple of the second."
            )
        if self.windows and len(self.windows) != self.num_layers:
            raise ValueError(
                f"windows has {len(self.windows)} entries; it must have one for each of the "
                f"{self.num_layers} layers, or none."
            )
        if self.num_experts and not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"experts_per_token is {self.experts_per_token}; it must lie between 1 and "
                f"num_experts, which is {self.num_experts}."
            )
        if not 0.0 <= self.lora_dropout < 1.0:
            raise ValueError(f"lora_dropout is {self.lora_dropout}; it must lie in [0, 1).")
        for name, known in (
            ("compute_dtype", DTYPES),
            ("activation", ACTIVATIONS),
            ("backend", BACKENDS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}."
                )
        unknown = sorted(set(self.lora_targets) - set(LORA_TARGETS))
        if unknown:
            raise ValueError(
                f"lora_targets names {unknown[0]!r}; known targets: {', '.join(LORA_TARGETS)}."
            )

    @property
    def has_alike_layers(self) -> bool:
        """Whether all layers compute the same but for their weights."""
        return not any(self.windows) and not self.dense_layers

    def window(self, layer: int) -> int:
        """How far back `layer` attends; 0 is all the way."""
        return self.windows[layer] if self.windows else 0

    def has_lora(self, projection: str) -> bool:
        """Whether the projection of this name carries LoRA matrices."""
        targets = LORA_TARGETS[:4] if self.num_experts else LORA_TARGETS
        return self.lora_rank > 0 and projection in self.lora_targets and projection in targets

    def has_experts(self, layer: int) -> bool:
        """Whether `layer` is a mixture of experts."""
        return bool(self.num_experts) and layer not in self.dense_layers
