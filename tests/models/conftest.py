"""Small models of transformers on torch, as oracles, and the same weights in our decoder."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from jaxtyping import PyTree

from agemem_jax.models import hf_import
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


def make_oracle(family: str = "llama", tied: bool = True) -> Oracle:
    torch = pytest.importorskip("torch", reason="torch is the oracle and is not installed")
    import transformers

    torch.manual_seed(0)
    make_config, make_model = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }[family]
    model = make_model(
        make_config(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            rms_norm_eps=1e-5,
            tie_word_embeddings=tied,
            initializer_range=0.3,  # large, so that attention is far from uniform
        )
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # ones otherwise, which would hide a missing scale
                weight.uniform_(0.5, 1.5)
            elif "bias" in name:  # zeros otherwise
                weight.normal_()
    config = DecoderConfig(
        vocab_size=61,
        num_layers=2,
        width=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ffn_width=48,
        rope_theta=500.0,
        rms_eps=1e-5,
        qkv_bias=family == "qwen2",
        tied_embeddings=tied,
        max_positions=128,
    )
    state = {name: weight.numpy() for name, weight in model.state_dict().items()}
    return Oracle(model, config, hf_import.from_state(state, config, where="the oracle"))


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return make_oracle()


@pytest.fixture(scope="session")
def untied_oracle() -> Oracle:
    return make_oracle(tied=False)


@pytest.fixture(scope="session")
def qwen2_oracle() -> Oracle:
    return make_oracle("qwen2")
