"""Serves a backbone or a trained policy by OpenAI's interfaces, to many clients at once.

    agemem-serve --backbone=smollm2-135m
    agemem-serve --workdir=runs/a --checkpoint=best
    agemem-serve --workdir=runs/a --memory=memories.sqlite

Then `OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="-")` talks to it; docs/serving.md has
the fields of requests that it knows. With --memory the same policy is served as an agent, too,
that remembers each `user`, and its memories to other programs. It listens on this machine
alone. For others give --host and a key, in the environment variable AGEMEM_API_KEY or as the only
line of --api_key_file.
"""

import dataclasses
import ipaddress
import os
import pathlib

import jax
import uvicorn
from absl import app, flags, logging

from agemem_jax.commands import cli
from agemem_jax.commands.checkpoint_flag import CHECKPOINT
from agemem_jax.memory.embedders import EMBEDDERS
from agemem_jax.models.decoder import Weights
from agemem_jax.models.loading import open_backbone
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.generation import EngineConfig
from agemem_jax.serving.agent_service import AgentService
from agemem_jax.serving.app import make_app
from agemem_jax.serving.scheduler import Scheduler
from agemem_jax.serving.service import Limits, Service
from agemem_jax.serving.sqlite_store import SQLiteStore
from agemem_jax.serving.structured import Schemas
from agemem_jax.training import components
from agemem_jax.training.configuration import run_config
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.configuration.run_record import read_config
from agemem_jax.training.policy import describe_weights, restore_weights

_BACKBONE = flags.DEFINE_string("backbone", None, "What to serve, as `agemem-backbones` tells.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The training run whose policy to serve.")
_BEFORE = flags.DEFINE_bool("before_rl", False, "Serve the run's policy before RL.")
_NAME = flags.DEFINE_string("name", None, "Of the model, for clients; default: the backbone's.")
_DTYPE = flags.DEFINE_enum(
    "compute_dtype", None, ["float32", "bfloat16"], "Default: the run's, or float32."
)
_EMBEDDER = flags.DEFINE_enum("embedder", None, EMBEDDERS, "Default: the run's.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
_PORT = flags.DEFINE_integer("port", 8000, "Port to listen on; 0 is a free one.", 0, 65535)
_KEY_FILE = flags.DEFINE_string("api_key_file", None, "File with the key that clients must show.")
_MEMORY = flags.DEFINE_string(
    "memory", None, "SQLite file of the memories of users: serves the agent as well."
)
_ENTRIES = flags.DEFINE_integer("memory_entries", 4096, "Of a user's memory, at most.", 1)
_SLOTS = flags.DEFINE_integer("slots", 8, "Responses that are sampled side by side.", 1)
_LENGTH = flags.DEFINE_integer("max_length", 2048, "Tokens of a conversation and its answer.", 16)
_TOKENS = flags.DEFINE_integer("max_tokens", 4096, "Tokens of an answer, at most.", 1)
_QUEUE = flags.DEFINE_integer("max_waiting", 128, "Requests that may wait; others get 429.", 0)
_SECONDS = flags.DEFINE_float("max_seconds", 600.0, "Of a request, its wait included.", 0.0)
_BODY = flags.DEFINE_integer("max_body_bytes", 4 * 2**20, "Of a request.", 1)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    if (_BACKBONE.value is None) == (_WORKDIR.value is None):
        raise app.UsageError("Give --backbone or --workdir, one of them.")
    key = _api_key()
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    service = build_service()
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(service, key), host=_HOST.value, port=_PORT.value, log_level="warning",
            timeout_graceful_shutdown=10, server_header=False, h11_max_incomplete_event_size=65536,
        )
    )  # fmt: skip
    logging.info("Serving %s on %s, port %d", service.name, _HOST.value, _PORT.value)
    server.run()


def _api_key() -> str | None:
    """The key that clients must show.

    Raises:
      ValueError: others than this machine can reach the server, and there is none.
    """
    if _KEY_FILE.value is not None:
        key = pathlib.Path(_KEY_FILE.value).read_text(encoding="utf-8").strip()
    else:
        key = os.environ.get("AGEMEM_API_KEY", "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ValueError("The API key must be one line of ASCII.")
    if not key and not _is_loopback(_HOST.value):
        raise ValueError(
            f"--host is {_HOST.value}, which others can reach; give a key in AGEMEM_API_KEY or by "
            "--api_key_file, or listen on 127.0.0.1."
        )
    return key or None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def engine_config(slots: int, max_length: int) -> EngineConfig:
    """Shapes for short and long conversations, of few and of many clients."""
    return EngineConfig(
        slots=slots, max_length=max_length, prefill_rows=4, prefill_fewer_rows=(1,),
        prefill_buckets=(32, 256), prefill_calls=2, attend_buckets=(512, 2048),
        decode_rows=(1,), chunk=8,
    )  # fmt: skip


def build_service() -> Service:
    """Loads what the flags name."""
    if _WORKDIR.value is not None:
        policy = {"trained": not _BEFORE.value, "checkpoint": CHECKPOINT.value}
        config = read_config(_WORKDIR.value)
        describe_weights(config, _WORKDIR.value, **policy)  # before anything is loaded
    else:
        values = run_config.default_config()
        values.backbone = _BACKBONE.value
        config = run_config.build(values)
    if _EMBEDDER.value is not None:
        memory = dataclasses.replace(config.memory, embedder=_EMBEDDER.value)
        config = dataclasses.replace(config, memory=memory)
    if _DTYPE.value is not None:
        model = dataclasses.replace(config.model, compute_dtype=_DTYPE.value)
        config = dataclasses.replace(config, model=model)
    backbone = open_backbone(
        config.backbone, init=config.model.init, param_dtype=config.model.param_dtype,
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        **components.decoder_options(config.model),
    )  # fmt: skip
    chat, embedder = components.build_chat(config, backbone), components.build_embedder(config)
    if _WORKDIR.value is not None:
        weights = restore_weights(config, backbone, _WORKDIR.value, **policy)
    else:
        weights = Weights(backbone.read_params())
    length = min(_LENGTH.value, backbone.config.max_positions)
    engine = Engine(
        engine_config(_SLOTS.value, length), backbone.config, chat.stop_ids, chat.decode
    )
    rules = _rules(config, chat, length) if _MEMORY.value else None
    scheduler = Scheduler(engine, weights, max_waiting=_QUEUE.value, max_seconds=_SECONDS.value)
    name = _NAME.value or pathlib.PurePath(config.backbone).name
    agent = None
    if rules is not None:
        store = SQLiteStore(_MEMORY.value, embedder, entries=_ENTRIES.value)
        agent = AgentService(f"{name}-agent", rules, scheduler, store)
    return Service(
        name, scheduler, chat, Schemas(chat, backbone.config.vocab_size), embedder,
        config.memory.embedder, Limits(_BODY.value, max_tokens=_TOKENS.value), agent,
    )  # fmt: skip


def _rules(config: RunConfig, chat: ChatEncoder, length: int) -> EpisodeRules:
    """The rules of the run, or short ones for a backbone as it is, within `length` tokens."""
    episode = config.episode
    if _WORKDIR.value is None:
        episode = dataclasses.replace(
            episode, prompt_style="compact", max_response_tokens=min(256, length // 4),
            max_summary_tokens=min(128, length // 8), max_context_tokens=length * 3 // 4,
        )  # fmt: skip
    if episode.max_length > length:
        raise ValueError(
            f"--max_length is {length}, and the agent's episodes take {episode.max_length} tokens; "
            "raise it."
        )
    return EpisodeRules(episode, chat)


def run():
    cli.run(main)
