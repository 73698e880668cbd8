"""What `agemem-serve` puts together: weights, engine, service, socket. Needs the extra serve."""

import dataclasses
import pathlib
import socket
from typing import Any

import jax
import uvicorn
from absl import logging

from agemem_jax.models.decoder import Weights
from agemem_jax.models.loading import open_backbone
from agemem_jax.protocol.chat_formats import ChatEncoder
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.episode import EpisodeRules
from agemem_jax.rollout.generation import EngineConfig
from agemem_jax.serving.memory.sqlite_store import SQLiteStore
from agemem_jax.serving.server.agent_service import AgentService
from agemem_jax.serving.server.app import make_app
from agemem_jax.serving.server.scheduler import Scheduler
from agemem_jax.serving.server.service import Limits, Service
from agemem_jax.serving.server.structured import Schemas
from agemem_jax.training import components
from agemem_jax.training.configuration import run_config
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.configuration.run_record import read_config
from agemem_jax.training.policy import describe_weights, restore_weights


def run(given: Any, checkpoint: str, key: str | None) -> None:
    """Loads, listens and serves until the process is told to end.

    Args:
      given: values of the flags.
      checkpoint: whose weights after RL.
      key: that clients must show.
    """
    service = build_service(given, checkpoint)
    family = socket.AF_INET6 if ":" in given.host else socket.AF_INET
    with socket.create_server((given.host, given.port), family=family, backlog=2048) as listening:
        host = f"[{given.host}]" if ":" in given.host else given.host
        address = f"http://{host}:{listening.getsockname()[1]}"
        logging.info("Serving %s on %s", ", ".join(service.names), address)
        uvicorn.Server(
            uvicorn.Config(
                make_app(service, key), log_level="warning", timeout_graceful_shutdown=10,
                server_header=False, h11_max_incomplete_event_size=65536,
            )
        ).run(sockets=[listening])  # fmt: skip


def engine_config(slots: int, max_length: int) -> EngineConfig:
    """Shapes for short and long conversations, of few and of many clients."""
    return EngineConfig(
        slots=slots, max_length=max_length, prefill_rows=4, prefill_fewer_rows=(1,),
        prefill_buckets=(32, 256), prefill_calls=2, attend_buckets=(512, 2048),
        decode_rows=(1,), chunk=8,
    )  # fmt: skip


def build_service(given: Any, checkpoint: str) -> Service:
    """Loads what the flags name; `checkpoint` as in `CheckpointFolder.find`."""
    if given.workdir is not None:
        policy = {"trained": not given.before_rl, "checkpoint": checkpoint}
        config = read_config(given.workdir)
        describe_weights(config, given.workdir, **policy)  # before anything is loaded
    else:
        values = run_config.default_config()
        values.backbone = given.backbone
        config = run_config.build(values)
    if given.embedder is not None:
        memory = dataclasses.replace(config.memory, embedder=given.embedder)
        config = dataclasses.replace(config, memory=memory)
    if given.compute_dtype is not None:
        model = dataclasses.replace(config.model, compute_dtype=given.compute_dtype)
        config = dataclasses.replace(config, model=model)
    backbone = open_backbone(
        config.backbone, init=config.model.init, param_dtype=config.model.param_dtype,
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        **components.decoder_options(config.model),
    )  # fmt: skip
    chat, embedder = components.build_chat(config, backbone), components.build_embedder(config)
    if given.workdir is not None:
        weights = restore_weights(config, backbone, given.workdir, **policy)
    else:
        weights = Weights(backbone.read_params())
    length = min(given.max_length, backbone.config.max_positions)
    engine = Engine(engine_config(given.slots, length), backbone.config, chat.stop_ids, chat.decode)
    rules = _rules(given, config, chat, length) if given.memory else None
    scheduler = Scheduler(
        engine, weights, max_waiting=given.max_waiting, max_seconds=given.max_seconds
    )
    name = given.name or pathlib.PurePath(config.backbone).name
    agent = None
    if rules is not None:
        store = SQLiteStore(given.memory, embedder, entries=given.memory_entries)
        agent = AgentService(f"{name}-agent", rules, scheduler, store)
    return Service(
        name, scheduler, chat, Schemas(chat, backbone.config.vocab_size), embedder,
        config.memory.embedder, Limits(given.max_body_bytes, max_tokens=given.max_tokens), agent,
    )  # fmt: skip


def _rules(given: Any, config: RunConfig, chat: ChatEncoder, length: int) -> EpisodeRules:
    """The rules of the run, or short ones for a backbone as it is, within `length` tokens."""
    episode = config.episode
    if given.workdir is None:
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
