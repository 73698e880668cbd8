"""Builds the parts of a run from its configuration: backbone, tasks, judge, player."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import psutil
from absl import logging
from jax.sharding import Mesh

from agemem_jax.memory.embedders import Embedder, make_embedder
from agemem_jax.models import backends, weights_cache
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.loading import Backbone, open_backbone
from agemem_jax.parallel import processes
from agemem_jax.protocol.chat_formats import (
    ChatEncoder,
    check_template,
    check_vocabulary,
    find_format,
)
from agemem_jax.rewards.judges import Judge, OfflineJudge
from agemem_jax.rewards.llm_judge import LLMJudge
from agemem_jax.rollout.goals import tools_for
from agemem_jax.rollout.player import Player
from agemem_jax.tasks.pipeline import TaskSource
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.tasks.task import Goal, Task
from agemem_jax.training import train_state
from agemem_jax.training.configuration.run_config import ModelConfig, RunConfig


def build_backbone(
    config: RunConfig, mesh: Mesh | None = None, *, with_params: bool = True
) -> Backbone:
    """Loads the policy's model; its random part is drawn from the run's seed.

    With the mesh of training, every device gets its part of the parameters. Without
    `with_params` they are left to `Backbone.read_params`.
    """
    place = None if mesh is None else functools.partial(train_state.param_shardings, mesh=mesh)
    backbone = open_backbone(
        config.backbone,
        place=place,
        init=config.model.init,
        key=jax.random.fold_in(jax.random.key(config.seed), 1),
        param_dtype=config.model.param_dtype,
        **decoder_options(config.model),
    )
    check_model(config, backbone.config)
    if not with_params:
        return backbone
    return dataclasses.replace(backbone, params=backbone.read_params())


def check_model(config: RunConfig, model: DecoderConfig) -> None:
    """Compares a run with the model that it trains; says which kernels will not serve it.

    Raises:
      ValueError: episodes are longer than what the model was made for, or its attention does
        not run on this machine.
    """
    needed = config.episode.max_length
    if needed > model.max_positions:
        raise ValueError(
            f"episode.max_context_tokens and the longest response need {needed} positions, but "
            f"backbone {config.backbone} was made for {model.max_positions}; lower the budgets or "
            "take another backbone."
        )
    backend = backends.get(model.backend)
    backend.check()
    cached, rows = config.engine.attend_lengths, config.packing.row_lengths
    for gap in backend.gaps(model, cached, config.engine.prefill_buckets, rows):
        logging.warning("%s", gap)


def decoder_options(model: ModelConfig) -> dict[str, Any]:
    """The fields of a decoder's configuration that a run sets, whatever the backbone."""
    names = (
        "compute_dtype", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "remat",
        "backend",
    )  # fmt: skip
    return {name: getattr(model, name) for name in names}


def build_chat(config: RunConfig, backbone: Backbone) -> ChatEncoder:
    """The chat format of the policy, compared with its tokenizer's own template.

    Raises:
      ValueError: tokenizer or model do not know the format, or the template is another.
    """
    chat_format = find_format(backbone.tokenizer, config.model.chat_format)
    chat = ChatEncoder(backbone.tokenizer, chat_format, backbone.end_ids)
    check_vocabulary(chat, backbone.config.vocab_size)
    check_template(chat)
    return chat


def build_embedder(config: RunConfig) -> Embedder:
    """The sentence encoder of the memory and of the context filter."""
    if config.memory.embedder != "minilm":
        return make_embedder(config.memory.embedder)
    return make_embedder("minilm", directory=weights_cache.find_or_explain("all-minilm-l6-v2"))


def build_player(
    config: RunConfig,
    backbone: Backbone,
    mesh: Mesh | None = None,
    source: TaskSource | None = None,
) -> Player:
    """Engine, memory store and environments for `backbone`, on the mesh of rollouts.

    Args:
      config: of the run.
      backbone: of the policy.
      mesh: of rollouts.
      source: whose tasks are played, which tells how prompts begin; None is of questions.
    """
    chat, embedder = build_chat(config, backbone), build_embedder(config)
    check_memory(config, backbone.config, embedder.dim)
    return Player(
        backbone.config, chat, config.engine, embedder, config.memory.entries, mesh,
        memory_device=config.memory.device, environments=config.environments,
        past=past_tasks(config.tasks), **({} if source is None else {"goals": goals_of(source)}),
    )  # fmt: skip


def past_tasks(tasks: TaskConfig) -> Callable[[], TaskSource]:
    """Gives the training split, which is loaded when it is first asked for."""
    return functools.cache(functools.partial(tasks.load, "train"))


def check_memory(config: RunConfig, model: DecoderConfig, width: int) -> None:
    """Compares what episodes hold with the memory of this process's devices.

    A machine without devices of its own grants more than it has, and ends the process later.

    Args:
      config: of the run.
      model: whose caches they are.
      width: of a memory's embedding.

    Raises:
      ValueError: caches and memories alone are larger.
    """
    engine = config.engine
    token = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    cache = engine.max_length * token * jnp.dtype(engine.cache_dtype).itemsize
    needed = engine.slots * (cache + config.memory.entries * 4 * width)
    devices = jax.local_devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    there = sum(limits) if all(limits) else psutil.virtual_memory().total
    if needed > there:
        raise ValueError(
            f"engine.slots is {engine.slots}: caches of engine.max_length ({engine.max_length}) "
            f"tokens and memories of memory.entries ({config.memory.entries}) entries take "
            f"{needed / 2**30:,.0f} GiB, and there are {there / 2**30:,.0f}; lower one of them."
        )


def goals_of(source: TaskSource) -> list[Goal]:
    """One goal of each kind that tasks of a source have, by the tools that it brings."""
    looked_at = [source[index].goal for index in _spread(len(source), 100)]
    return list({tools_for(goal): goal for goal in looked_at}.values())


def check_source(source: TaskSource, config: RunConfig) -> None:
    """Compares the training data with what a run asks of it; says what will be cut.

    Raises:
      ValueError: one iteration would play a task twice.
    """
    wanted = config.curriculum.tasks_per_iteration
    if wanted > len(source):
        raise ValueError(
            f"curriculum.tasks_per_iteration is {wanted}, but the training data holds "
            f"{len(source)} task(s); lower it to that, or give more data."
        )
    looked_at = [source[index] for index in _spread(len(source), 100)]
    longest = max(len(task.messages) for task in looked_at)
    if longest > config.episode.max_messages and 1 in config.episode.stages:
        logging.warning(
            "episode.max_messages is %d, but tasks have up to %d messages in Stage 1: those behind "
            "it are never said.", config.episode.max_messages, longest,
        )  # fmt: skip


def identify_source(source: TaskSource) -> dict[str, Any]:
    """What tells one set of tasks from another: how many there are, and which are where."""
    digest = hashlib.blake2b(digest_size=8)
    for index in _spread(len(source), 16):
        digest.update(source[index].task_id.encode() + b"\0")
    return {"tasks": len(source), "digest": digest.hexdigest()}


def identify_tasks(tasks: Sequence[Task]) -> dict[str, Any]:
    """What tells one list of tasks from another that is evaluated: all that stands in them.

    Tasks of the same names may differ, for instance by what an option of their source adds.
    """
    digest = hashlib.blake2b(digest_size=8)
    for task in tasks:
        digest.update(repr(task).encode("utf-8", "backslashreplace") + b"\0")
    return {**identify_source(tasks), "content": digest.hexdigest()}


def _spread(size: int, count: int) -> list[int]:
    """At most `count` indices below `size`, from the first to the last."""
    count = min(size, count)
    return [index * (size - 1) // max(1, count - 1) for index in range(count)]


def build_judge(config: RunConfig, workdir: str | os.PathLike) -> Judge:
    """The judge that rewards and evaluations ask, tried once; all processes must call this.

    Each process asks about its own trajectories and keeps the scores in a folder of its own.

    Raises:
      ConnectionError: in every process, where `judge.required` and the endpoint fails.
    """
    if config.judge.kind == "offline":
        return OfflineJudge()
    cache = config.judge.cache_dir or os.path.join(workdir, "judge_cache")
    if "://" in cache:  # lines are added to its file, which a bucket cannot do
        cache = os.fspath(weights_cache.cache_directory() / "judge")
    if jax.process_index():
        cache = f"{cache}_{jax.process_index()}"
    judge = LLMJudge(dataclasses.replace(config.judge, cache_dir=cache))
    problem = processes.gather(judge.try_endpoint() if processes.is_primary() else None)[0]
    if problem is None:
        return judge
    if config.judge.required:
        raise ConnectionError(
            f"{problem}; judge.required=False or judge.kind='offline' begins without it, on "
            "offline scores."
        )
    logging.warning("%s. judge.required is False: EVERY score will be the offline one.", problem)
    judge.stop_asking()
    return judge
