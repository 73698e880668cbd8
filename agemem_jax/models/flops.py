"""How much arithmetic a decoder needs, from its shapes: the numerator of MFU.

Matrix products only, two operations for each multiply-add, as in PaLM (arXiv 2204.02311,
appendix B). What a program computes again or for nothing is not in it.
"""

from agemem_jax.models.config import DecoderConfig


def layer_parameters(config: DecoderConfig) -> int:
    """Parameters of all layers that a token is multiplied with; of experts, those it is sent to."""
    heads = config.num_heads + config.num_kv_heads
    attention = 2 * config.width * heads * config.head_dim
    dense = 3 * config.width * config.ffn_width
    experts = 3 * config.width * config.expert_width * config.experts_per_token
    experts += config.width * config.num_experts
    return sum(
        attention + (experts if config.has_experts(layer) else dense)
        for layer in range(config.num_layers)
    )


def lora_parameters(config: DecoderConfig) -> int:
    """Parameters of all LoRA matrices."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    sizes = {
        "q_proj": config.width + queries, "k_proj": config.width + keys,
        "v_proj": config.width + keys, "o_proj": config.width + queries,
        "gate_proj": config.width + config.ffn_width, "up_proj": config.width + config.ffn_width,
        "down_proj": config.width + config.ffn_width,
    }  # fmt: skip
    ranks = sum(size for name, size in sizes.items() if config.has_lora(name))
    return config.num_layers * config.lora_rank * ranks


def forward(config: DecoderConfig, tokens: float, pairs: float, projected: float) -> float:
    """Operations of a forward pass.

    Args:
      config: of the decoder.
      tokens: that pass through the layers.
      pairs: of a token and one that it attends to, itself counted.
      projected: hidden states that meet the vocabulary.
    """
    products = tokens * (layer_parameters(config) + lora_parameters(config))
    attention = 2 * pairs * config.num_layers * config.num_heads * config.head_dim
    return 2.0 * (products + attention + projected * config.vocab_size * config.width)


def update(config: DecoderConfig, tokens: float, pairs: float, projected: float) -> float:
    """Operations of a forward and a backward pass; with LoRA without gradients of what is frozen.

    Args are those of `forward`. The forward pass that `config.remat` repeats is left out.
    """
    whole = 3 * forward(config, tokens, pairs, projected)
    if not config.lora_rank:
        return whole
    frozen = tokens * layer_parameters(config) + projected * config.vocab_size * config.width
    return whole - 2.0 * frozen


def causal_pairs(tokens: float, before: float = 0) -> float:
    """Pairs in a sequence of so many tokens that stand behind `before` others."""
    return tokens * before + tokens * (tokens + 1) / 2
