"""What the tests of methods share."""

import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.models import loading, tokenizers
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder


@pytest.fixture(scope="session")
def chat():
    return ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)


@pytest.fixture
def store():
    return MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=4, entries=8)
