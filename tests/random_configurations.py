"""Configurations of which one to three options are changed at random.

Values are drawn for what an option is: valid ones, odd ones (its least, its most, one beside it,
far too many), and wrong ones (another kind, no number, a name that nothing knows).
"""

import random
import typing
from typing import Any

import ml_collections

from agemem_jax.rewards.context_reward import ContextReward
from agemem_jax.rewards.memory_reward import MemoryReward
from agemem_jax.rewards.penalty import Penalty
from agemem_jax.rewards.task_reward import TaskReward
from agemem_jax.tasks.multihop import MultihopTasks
from agemem_jax.training.configuration import run_config
from agemem_jax.training.credit.broadcast import Broadcast
from experiments.configs import tiny

# What such options ask for takes long, and is to be had: they get no large values.
_LENGTHS = (
    "curriculum.iterations", "curriculum.tasks_per_iteration", "grpo.group_size", "grpo.epochs",
    "grpo.minibatches", "grpo.max_resample_rounds", "warmup.steps", "warmup.episodes",
    "warmup.batch", "warmup.drill",
    "episode.max", "episode.rounds_per_message", "tasks.eval_size", "evaluation",
    "engine.max_length", "packing", "model.lora_rank", "tasks.options",
)  # fmt: skip
_NAMES = {
    "backbone": ["tiny", "qwen3-0.6b", "no/such-model", "a b"],
    "tasks.source": ["multihop", "hotpotqa", "no_module:Tasks"],
    "tasks.eval_split": ["train", "validation", "test"],
    "method": ["agemem", "agemem_rag", "no_memory", "no_module:METHOD"],
    "rewards.components.task.options.environment": ["progress", "success"],
    "rewards.variant": ["literal", "guarded"],
    "model.init": ["random", "pretrained"],
    "model.chat_format": ["chatml", "llama3", "gemma", "mistral"],
    "model.backend": ["auto", "plain", "cpu", "tpu"],
    "memory.embedder": ["hashed_ngrams", "minilm"],
    "memory.device": ["auto", "host", "accelerator"],
    "episode.prompt_style": ["full", "compact"],
    "judge.kind": ["offline", "llm"],
    "judge.base_url": ["http://127.0.0.1:9/v1", "localhost"],
    "curriculum.schedule": ["joint", "phased"],
    "optimizer.schedule": ["constant", "cosine", "linear"],
    "warmup.optimizer.schedule": ["constant", "cosine", "linear"],
    "grpo.credit": ["broadcast", "gigpo(discount=0.5)", "local", "utility", "no_module:RULE"],
    "grpo.ratio": ["token", "sequence"],
    "grpo.normalisation": ["step", "trajectory", "token", "constant"],
    "grpo.baseline": ["mean", "leave_one_out"],
    "grpo.correction": ["truncate", "mask"],
    "grpo.correction_level": ["token", "sequence"],
    "grpo.kl_estimator": ["k1", "k2", "k3"],
    "engine.weights": ["as_trained", "stacked", "int8"],
}
_DTYPES = ["float32", "bfloat16", "float16"]


def base() -> ml_collections.ConfigDict:
    """One iteration of one group, as small as the tiny backbone goes."""
    config = tiny.get_config()
    config.tasks.options.max_messages = 3
    config.tasks.eval_size = 2
    config.episode.max_context_tokens = 480
    config.episode.max_response_tokens = 16
    config.episode.max_summary_tokens = 8
    config.episode.max_rounds = 1
    config.engine.slots = 2
    config.engine.max_length = 496
    config.engine.attend_buckets = config.engine.decode_rows = ()
    config.engine.prefill_rows = 2
    config.engine.prefill_buckets = (64,)
    config.packing.row_lengths = (512,)
    config.packing.max_targets = 192
    config.packing.max_microbatches = 8
    config.curriculum.iterations = (1,)
    config.curriculum.tasks_per_iteration = 1
    config.grpo.group_size = 2
    return config


def options(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The kind of every option by dotted name, as its dataclass declares it."""
    return dict(_hints(run_config.RunConfig, ""))


# Tables of options that a part has, or of parts: what stands in them by default.
_TABLES = {
    "tasks.options": MultihopTasks,
    "grpo.credit_options": Broadcast,
    "rewards.components": {
        "task": TaskReward, "context": ContextReward, "memory": MemoryReward, "penalty": Penalty,
    },
}  # fmt: skip


def _hints(cls, prefix):
    for name, hint in typing.get_type_hints(cls).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        table = _TABLES.get(prefix + name)
        if isinstance(table, dict):
            for part, component in table.items():
                yield f"{prefix}{name}.{part}.weight", float
                yield from _hints(component, f"{prefix}{name}.{part}.options.")
        elif table is not None:
            yield from _hints(table, f"{prefix}{name}.")
        elif hasattr(hint, "__dataclass_fields__"):
            yield from _hints(hint, f"{prefix}{name}.")
        else:
            yield prefix + name, hint


def draw(seed: int) -> dict[str, Any]:
    """The changes of configuration number `seed`, by dotted name."""
    rng = random.Random(seed)
    kinds = options(base())
    names = rng.sample(sorted(kinds), rng.choice((1, 1, 2, 3)))
    return {name: _value(rng, name, kinds[name], _get(base(), name)) for name in names}


def _get(config, name):
    for part in name.split("."):
        config = config[part]
    return config


def _value(rng: random.Random, name: str, hint: Any, default: Any) -> Any:
    inner = [each for each in typing.get_args(hint) if each is not type(None)]
    if type(None) in typing.get_args(hint):
        if rng.random() < 0.2:
            return None
        hint = inner[0]
    if typing.get_origin(hint) is tuple:
        if rng.random() < 0.2:
            return rng.choice([(), 3, ("none",), None, (1.5,)])
        of = typing.get_args(hint)[0]
        if of is str:
            return tuple(rng.sample(default, rng.randint(1, len(default))))
        return tuple(_number(rng, name, of, 64) for _ in range(rng.choice((1, 1, 2, 3))))
    if rng.random() < 0.1:
        return rng.choice(["", "none", None, True, -3, 0.5, (1, 2)])
    if hint is bool:
        return rng.random() < 0.5
    if hint in (int, float):
        return _number(rng, name, hint, default)
    known = _NAMES.get(name, _DTYPES if name.endswith("dtype") else [default])
    return rng.choice([*known, *known, "none"])


def _number(rng: random.Random, name: str, hint: type, default: Any) -> Any:
    default = 1 if default is None or isinstance(default, type) else default
    if hint is float:
        odd = [0.0, 1.0, -1.0, 1e-9, 1e9, float("nan"), float("inf"), -float("inf"), 2]
        return rng.choice([default / 2, default * 2, rng.random(), rng.random(), *odd])
    values = [default, default + 1, max(1, default // 2), rng.randint(1, 8), 0, 1, 2, -1]
    if not name.startswith(_LENGTHS):
        values += [1000, 10**6, 2**31, 2**64]
    return rng.choice(values)


def apply(config: ml_collections.ConfigDict, changes: dict[str, Any]) -> dict[str, Any]:
    """Plain values of `config` with `changes`, as a saved configuration would hold them."""
    values = config.to_dict()
    for name, value in changes.items():
        group = values
        *path, last = name.split(".")
        for part in path:
            group = group[part]
        group[last] = value
    return values


def as_flags(changes: dict[str, Any]) -> list[str]:
    """The same changes as a person types them."""
    return [f"--config.{name}={value}" for name, value in changes.items()]
