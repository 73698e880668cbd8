"""Small models of transformers on torch, as oracles, and the same weights in our decoder."""

import dataclasses
import functools
import tempfile
from typing import Any

import numpy as np
import pytest
from jaxtyping import PyTree

from agemem_jax.models import hf_config, hf_import
from agemem_jax.models.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Oracle:
    """Two implementations of one model."""

    model: Any
    config: DecoderConfig
    params: PyTree

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.model(torch.from_numpy(np.asarray(tokens, np.int64))).logits.numpy()


_SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.3,  # large, so that attention is far from uniform
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GEMMA = {
    "head_dim": 12,
    "num_hidden_layers": 4,
    "query_pre_attn_scalar": 10,
    "sliding_window": 5,  # shorter than the rows of the tests
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}
_STRETCHED = {"rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}

# One small model for each thing that families differ in: what its configuration adds.
VARIANTS = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama_untied": ("llama", {"tie_word_embeddings": False}),
    "llama_llama3_rope": (
        "llama",
        {
            "rope_parameters": _STRETCHED
            | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        },
    ),
    "llama_linear_rope": ("llama", {"rope_parameters": _STRETCHED | {"rope_type": "linear"}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral_window": ("mistral", {"sliding_window": 4, "head_dim": 12}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2_yarn": ("qwen2", {"rope_parameters": _STRETCHED | {"rope_type": "yarn"}}),
    "qwen3": ("qwen3", {"head_dim": 12}),
    "qwen3_moe": (
        "qwen3_moe",
        {
            "head_dim": 12, "num_experts": 6, "num_experts_per_tok": 2,
            "moe_intermediate_size": 16, "norm_topk_prob": True, "num_hidden_layers": 3,
            "mlp_only_layers": [1],
        },
    ),
    "qwen3_moe_plain_shares": (
        "qwen3_moe",
        {
            "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 3,
            "moe_intermediate_size": 8, "norm_topk_prob": False,
        },
    ),
    "gemma2": (
        "gemma2",
        _GEMMA | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0},
    ),
    "gemma3": (
        "gemma3_text",
        _GEMMA
        | {
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
            "num_hidden_layers": 6,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 8.0},
            },
        },
    ),
}  # fmt: skip


@functools.cache
def make_oracle(variant: str) -> Oracle:
    """A random model of transformers, written to disk by it and read from there by us."""
    torch = pytest.importorskip("torch", reason="torch is the oracle and is not installed")
    import transformers

    torch.manual_seed(0)
    family, changes = VARIANTS[variant]
    values = transformers.AutoConfig.for_model(family, **(_SHAPE | changes))
    model = transformers.AutoModelForCausalLM.from_config(values, attn_implementation="eager")
    model = model.eval().float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # constant otherwise, which would hide a missing scale
                weight.uniform_(0.5, 1.5) if weight.mean() > 0.5 else weight.uniform_(-0.5, 0.5)
            elif "bias" in name:  # zeros otherwise
                weight.normal_()
            elif "gate" in name:
                weight.normal_(std=0.3)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        config = hf_config.read_config(directory)
        params = hf_import.read_params(directory, config)
    return Oracle(model, config, params)


@pytest.fixture(scope="session", params=VARIANTS)
def family_oracle(request) -> Oracle:
    """An oracle of every family."""
    return make_oracle(request.param)


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return make_oracle("llama")
