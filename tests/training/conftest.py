"""What the tests of training share."""

import pytest

from agemem_jax.models.config import DecoderConfig


@pytest.fixture(scope="session")
def tiny_decoder_config() -> DecoderConfig:
    """Two layers, width 32, 64 ids: small enough to compile within a second or two."""
    return DecoderConfig(
        vocab_size=64,
        num_layers=2,
        width=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ffn_width=48,
    )
