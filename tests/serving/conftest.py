"""A small random model behind a server, as in `tests/rollout/conftest.py`."""

import contextlib
import threading
import time

import jax
import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.models import decoder, loading, tokenizers
from agemem_jax.models.config import DecoderConfig
from agemem_jax.protocol.chat_formats import CHATML, ChatEncoder
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.generation import EngineConfig
from agemem_jax.serving.memory.sqlite_store import SQLiteStore
from agemem_jax.serving.server.scheduler import Scheduler


@pytest.fixture(scope="session")
def chat():
    return ChatEncoder(tokenizers.from_file(loading.assets("tiny") / "tokenizer.json"), CHATML)


@pytest.fixture(scope="session")
def schemas(chat):
    from agemem_jax.serving.server.structured import Schemas

    return Schemas(chat, len(chat.tokenizer))


@pytest.fixture(scope="session")
def make_scheduler(chat):
    model = DecoderConfig(
        vocab_size=len(chat.tokenizer), num_layers=2, width=32, num_heads=2, num_kv_heads=1,
        head_dim=16, ffn_width=64,
    )  # fmt: skip
    weights = decoder.Weights(decoder.init_params(model, jax.random.key(0)))
    config = EngineConfig(
        slots=4, max_length=624, prefill_rows=2, prefill_buckets=(32, 128), attend_buckets=(),
        chunk=8,
    )  # fmt: skip

    def make(**options):
        return Scheduler(Engine(config, model, chat.stop_ids, chat.decode), weights, **options)

    return make


@pytest.fixture
def scheduler(make_scheduler):
    scheduler = make_scheduler()
    scheduler.start()
    yield scheduler
    scheduler.close()


@pytest.fixture(scope="session")
def serve(make_scheduler, chat, schemas):
    """A context with a server; gives its address and its service."""
    import uvicorn

    from agemem_jax.serving.server.agent_service import AgentService
    from agemem_jax.serving.server.app import make_app
    from agemem_jax.serving.server.service import Limits, Service

    episode = EpisodeConfig(
        max_context_tokens=600, max_response_tokens=24, max_summary_tokens=8, max_rounds=2,
        prompt_style="compact",
    )  # fmt: skip

    @contextlib.contextmanager
    def serving(api_key=None, limits=None, memory=False, **options):
        scheduler, embedder = make_scheduler(**options), make_embedder("hashed_ngrams")
        agent = None
        if memory:
            store = SQLiteStore(None, embedder, entries=50)
            agent = AgentService("agent", EpisodeRules(episode, chat), scheduler, store)
        limits = limits or Limits(body_bytes=200_000, max_tokens=64)
        service = Service(
            "small", scheduler, chat, schemas, embedder, "hashed_ngrams", limits, agent
        )
        config = uvicorn.Config(make_app(service, api_key), port=0, log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}", service
        finally:
            server.should_exit = True
            thread.join()

    return serving


@pytest.fixture(scope="session")
def server(serve):
    with serve() as served:
        yield served
