"""A small random policy that plays real episodes of the embedded tasks."""

import jax
import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.models import decoder, loading, tokenizers
from agemem_jax.models.config import DecoderConfig
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.generation import EngineConfig


@pytest.fixture(scope="session")
def chat():
    return ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)


@pytest.fixture(scope="session")
def model(chat):
    return DecoderConfig(
        vocab_size=len(chat.tokenizer), num_layers=2, width=32, num_heads=2, num_kv_heads=1,
        head_dim=16, ffn_width=64,
    )  # fmt: skip


@pytest.fixture(scope="session")
def weights(model):
    return decoder.Weights(decoder.init_params(model, jax.random.key(0)))


@pytest.fixture(scope="session")
def episode_config():
    return EpisodeConfig(
        max_context_tokens=600, max_response_tokens=24, max_summary_tokens=8, max_rounds=2,
        prompt_style="compact",
    )  # fmt: skip


@pytest.fixture(scope="session")
def engine_config():
    return EngineConfig(
        slots=4, max_length=624, prefill_rows=2, prefill_buckets=(32, 128), attend_buckets=(),
        chunk=8,
    )  # fmt: skip


@pytest.fixture
def store():
    return MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=4, entries=8)
