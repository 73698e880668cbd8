"""The configuration of a run as frozen dataclasses, built and validated in one place.

Config files start from `default_config()`, an `ml_collections.ConfigDict` of every
option with its default, and change what they need; `build` turns the result into a
`RunConfig`, or stops with one sentence that names the option.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections

from agemem_jax.environments.pool import EnvironmentConfig
from agemem_jax.memory.placement import MemoryConfig
from agemem_jax.methods.registry import find_method
from agemem_jax.models.config import BACKENDS, DTYPES, LORA_TARGETS
from agemem_jax.models.loading import check_name
from agemem_jax.parallel.mesh import MeshConfig
from agemem_jax.plugins import option_values
from agemem_jax.plugins.registry import name_of
from agemem_jax.protocol.chat_formats import CHAT_FORMATS
from agemem_jax.rewards.judge_config import JudgeConfig
from agemem_jax.rewards.overlong import with_limit
from agemem_jax.rewards.registry import RewardConfig
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.generation import EngineConfig
from agemem_jax.rollout.tools.registry import name_of_tool
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.configuration.monitoring_config import (
    EvaluationConfig,
    MetricsConfig,
    SamplesConfig,
    ValidationConfig,
    check_seed,
)
from agemem_jax.training.faults import FaultConfig
from agemem_jax.training.packing import PackingConfig
from agemem_jax.training.train_state import OptimizerConfig
from agemem_jax.training.warmup.copy_drill import Drill
from agemem_jax.training.warmup.demonstrations import Imperfection


def _at_least_one(config: Any, group: str, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{group}.{name} is {getattr(config, name)}; it must be at least 1.")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """How the backbone is set up.

    Attributes:
      init: "pretrained", or "random" to start from nothing.
      chat_format: "chatml", "llama3", "gemma" or "mistral"; by default the one whose special
        tokens the tokenizer knows.
      compute_dtype: of activations, "float32" or "bfloat16".
      param_dtype: of base parameters that LoRA leaves frozen. What is trained is float32.
      lora_rank: 0 trains all parameters.
      lora_alpha: LoRA's scale is alpha / rank.
      lora_dropout: rate of dropout in front of the LoRA matrices in updates.
      lora_targets: projections that carry LoRA matrices.
      remat: recompute layers in the backward pass instead of keeping activations.
      backend: "plain", "cpu", "cuda", "tpu", or "auto" by the device (see
        `DecoderConfig.backend`).
    """

    init: Literal["pretrained", "random"] = "pretrained"
    chat_format: str | None = None
    compute_dtype: str = "float32"
    param_dtype: str = "float32"
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = LORA_TARGETS
    remat: bool = False
    backend: str = "auto"

    def __post_init__(self):
        if self.init not in ("pretrained", "random"):
            raise ValueError(f"model.init is {self.init!r}; it must be 'pretrained' or 'random'.")
        for name in ("compute_dtype", "param_dtype"):
            if getattr(self, name) not in DTYPES:
                raise ValueError(
                    f"model.{name} is {getattr(self, name)!r}; it must be one of "
                    f"{', '.join(DTYPES)}."
                )
        if self.lora_rank < 0:
            raise ValueError(f"model.lora_rank is {self.lora_rank}; it must be 0 or more.")
        if not self.lora_alpha > 0:
            raise ValueError(f"model.lora_alpha is {self.lora_alpha}; it must be above 0.")
        if not 0.0 <= self.lora_dropout < 1.0:
            raise ValueError(f"model.lora_dropout is {self.lora_dropout}; it must be in [0, 1).")
        if not self.lora_targets or set(self.lora_targets) - set(LORA_TARGETS):
            raise ValueError(
                f"model.lora_targets is {self.lora_targets}; it must be some of "
                f"{', '.join(LORA_TARGETS)}."
            )
        if self.backend not in BACKENDS:
            raise ValueError(
                f"model.backend is {self.backend!r}; it must be one of {', '.join(BACKENDS)}."
            )
        if self.chat_format is not None and self.chat_format not in CHAT_FORMATS:
            raise ValueError(
                f"model.chat_format is {self.chat_format!r}; it must be one of "
                f"{', '.join(CHAT_FORMATS)}, or None for the tokenizer's own."
            )


@dataclasses.dataclass(frozen=True)
class WarmupConfig:
    """Imitation of the scripted agent before reinforcement learning.

    Attributes:
      steps: optimiser steps; 0 skips the warm-up.
      episodes: demonstrations that are played.
      batch: demonstrations in one optimiser step.
      drill: how many of the first steps practise copying random tokens, for a policy that
        starts from nothing.
    """

    steps: int = 0
    episodes: int = 512
    batch: int = 32
    drill: Drill = Drill()
    optimizer: OptimizerConfig = OptimizerConfig()
    imperfection: Imperfection = Imperfection()

    def __post_init__(self):
        _at_least_one(self, "warmup", "episodes", "batch")
        if self.steps < 0:
            raise ValueError(f"warmup.steps is {self.steps}; it must be 0 or more.")


@dataclasses.dataclass(frozen=True)
class CurriculumConfig:
    """The order in which stages are trained (section 3.3).

    Attributes:
      schedule: "phased" trains Stage 1, then Stages 1 and 2, then all with all
        rewards; "joint" plays full trajectories from the start (algorithm 1).
      iterations: of each phase; one number for "joint", three for "phased".
      tasks_per_iteration: groups in one update.
      checkpoint_every: iterations between checkpoints inside a phase.
      keep: how many of those are kept; phase ends are kept always.
    """

    schedule: str = "joint"
    iterations: tuple[int, ...] = (30,)
    tasks_per_iteration: int = 8
    checkpoint_every: int = 10
    keep: int = 2

    def __post_init__(self):
        lengths = {"joint": 1, "phased": 3}
        if self.schedule not in lengths:
            raise ValueError(
                f"curriculum.schedule is {self.schedule!r}; it must be 'joint' or 'phased'."
            )
        if len(self.iterations) != lengths[self.schedule] or min(self.iterations) < 0:
            raise ValueError(
                f"curriculum.iterations is {self.iterations}; the {self.schedule} schedule "
                f"takes {lengths[self.schedule]} number(s) of 0 or more."
            )
        _at_least_one(self, "curriculum", "tasks_per_iteration", "checkpoint_every")
        if self.keep < 2:
            raise ValueError(
                f"curriculum.keep is {self.keep}; it must be at least 2, so that one checkpoint is "
                "left when the newest is damaged."
            )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on, as it can be recorded.

    Its `engine.cache_dtype` is always one of the dtypes. Parts that were given as objects are
    named by where they stand.

    Attributes:
      seed: of weights that start at random, of the order of tasks and of what is sampled.
      method: how tasks are played while training, by name or as `package.module:attribute`.
      backbone: a registered name, a directory or a GGUF file, or a repository id of the hub.
      temperature: that rollouts are sampled at while training; above 0.
      warm_start: weights to begin with instead of the backbone's own: the directory of a run, one
        checkpoint of it, or a PEFT adapter (`warm_start.py`).
    """

    seed: int = 0
    tasks: TaskConfig = TaskConfig()
    method: str = "agemem"
    backbone: str = "tiny"
    model: ModelConfig = ModelConfig()
    mesh: MeshConfig = MeshConfig()
    memory: MemoryConfig = MemoryConfig()
    episode: EpisodeConfig = EpisodeConfig()
    environments: EnvironmentConfig = EnvironmentConfig()
    engine: EngineConfig = EngineConfig(max_length=10_240)
    temperature: float = 1.0
    rewards: RewardConfig = RewardConfig()
    judge: JudgeConfig = JudgeConfig()
    warmup: WarmupConfig = WarmupConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    grpo: GRPOConfig = GRPOConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    packing: PackingConfig = PackingConfig(row_lengths=(2048, 4096, 10_240))
    evaluation: EvaluationConfig = EvaluationConfig()
    faults: FaultConfig = FaultConfig()
    warm_start: str | None = None
    validation: ValidationConfig = ValidationConfig()
    samples: SamplesConfig = SamplesConfig()
    metrics: MetricsConfig = MetricsConfig()

    def __post_init__(self):
        if self.engine.cache_dtype is None:
            engine = dataclasses.replace(self.engine, cache_dtype=self.model.compute_dtype)
            object.__setattr__(self, "engine", engine)
        self._name_parts()
        check_seed("seed", self.seed)
        check_name(self.backbone)
        self.validation.check(self.rewards.components, self.tasks.splits)
        if self.temperature <= 0:
            raise ValueError(
                f"temperature is {self.temperature}; exploration needs a value above 0."
            )
        needed = self.episode.max_length
        if self.engine.max_length < needed:
            raise ValueError(
                f"engine.max_length is {self.engine.max_length}, but episode.max_context_tokens "
                f"and the longest response need {needed}; raise it or lower the budgets."
            )
        if self.packing.row_lengths[-1] < needed:
            raise ValueError(
                f"The longest of packing.row_lengths is {self.packing.row_lengths[-1]}, but a "
                f"segment can have {needed} tokens (episode.max_context_tokens and the longest "
                "response); raise it."
            )

    def _name_parts(self) -> None:
        """Parts that were given as objects stand here by the names that a record can hold."""
        tasks = dataclasses.replace(self.tasks, source=name_of(self.tasks.source))
        components = {
            name: dataclasses.replace(component, function=name_of(component.function))
            for name, component in self.rewards.components.items()
        }
        tools = tuple(name_of_tool(tool) for tool in self.episode.tools)
        object.__setattr__(self, "tasks", tasks)
        rewards = dataclasses.replace(self.rewards, components=components)
        rewards = with_limit(rewards, self.episode.max_response_tokens)
        object.__setattr__(self, "rewards", rewards)
        object.__setattr__(self, "episode", dataclasses.replace(self.episode, tools=tools))
        grpo = dataclasses.replace(self.grpo, credit=name_of(self.grpo.credit))
        object.__setattr__(self, "grpo", grpo)
        object.__setattr__(self, "method", name_of(self.method))
        try:
            find_method(self.method)
        except ValueError as error:
            raise ValueError(f"method: {error}") from error

    @property
    def warmup_optimizer(self) -> OptimizerConfig:
        """The optimiser of the warm-up; by default its schedule is as long as that."""
        return _with_length(self.warmup.optimizer, self.warmup.steps)

    @property
    def old_log_probs(self) -> str:
        """Where updates take them from, see `GRPOConfig.old_log_probs`."""
        dtypes = (self.model.compute_dtype, self.engine.cache_dtype)
        rounded = "bfloat16" in dtypes or self.engine.weights == "int8"
        return self.grpo.old_log_probs(rounded, self.model.lora_dropout > 0)

    @property
    def rl_optimizer(self) -> OptimizerConfig:
        """The optimiser of all phases behind the warm-up.

        By default its schedule is as long as they are: iterations times epochs times minibatches.
        """
        updates = self.grpo.epochs * self.grpo.minibatches
        return _with_length(self.optimizer, sum(self.curriculum.iterations) * updates)


def _with_length(optimizer: OptimizerConfig, steps: int) -> OptimizerConfig:
    """`optimizer` with `steps` for `total_steps` that are not given.

    A run that is shorter than its warm-up ends in it: whoever looks at one iteration need not
    change the schedule.
    """
    if optimizer.total_steps is not None:
        return optimizer
    return dataclasses.replace(optimizer, total_steps=max(steps, optimizer.warmup_steps + 1))


def default_config() -> ml_collections.ConfigDict:
    """Every option with its default, to be changed by a config file."""
    # The class, whose defaults are as they are written: an instance has filled some of them in.
    return _to_config_dict(RunConfig)


def _to_config_dict(value: Any) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    hints = typing.get_type_hints(value if isinstance(value, type) else type(value))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name, None)
        if field.default_factory is not dataclasses.MISSING and isinstance(value, type):
            item = field.default_factory()
        config[field.name] = to_option(item, hints[field.name])
    return config.lock()


def to_option(value: Any, hint: Any = object) -> Any:
    """The value of an option as a `ConfigDict` holds it, so that a flag of its type is made."""
    if dataclasses.is_dataclass(value):
        return _to_config_dict(value)
    if isinstance(value, Mapping):
        items = {name: to_option(each) for name, each in value.items()}
        return ml_collections.ConfigDict(items).lock()
    if value is None:
        return ml_collections.config_dict.placeholder(_optional_type(hint))
    if types.NoneType in typing.get_args(hint):  # a flag may say None, too
        return ml_collections.FieldReference(value, field_type=object)
    return value


def _optional_type(hint: Any) -> type:
    """`float` of `float | None`."""
    options = [option for option in typing.get_args(hint) if option is not types.NoneType]
    return options[0] if options else object


def build(config: ml_collections.ConfigDict) -> RunConfig:
    """The validated configuration.

    Raises:
      ValueError: in one sentence, for an unknown option or a wrong value.
    """
    return from_dict(config.to_dict())


def from_dict(values: dict[str, Any]) -> RunConfig:
    """`build` for plain values, as `config.json` of a run holds them."""
    return _build(RunConfig, values, prefix="")


def _build(cls: type, values: dict[str, Any], prefix: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields)) if isinstance(values, dict) else []
    if unknown:
        raise ValueError(
            f"Unknown option {prefix}{unknown[0]}; known here: {', '.join(sorted(fields))}."
        )
    if not isinstance(values, dict):
        raise ValueError(f"{prefix[:-1]} is {values!r}; it is a group of options.")
    hints = typing.get_type_hints(cls)
    arguments = {
        name: _read(hints[name], value, f"{prefix}{name}") for name, value in values.items()
    }
    try:
        return cls(**arguments)
    except ValueError as error:
        # A group that stands in two places knows the last part of its own name.
        short = prefix.removesuffix(".").rsplit(".", 1)[-1]
        if "." not in prefix.removesuffix("."):
            raise
        raise ValueError(re.sub(rf"(?<![\w.]){short}\.", prefix, str(error))) from error


def _read(hint: Any, value: Any, name: str) -> Any:
    """A group of options, a table of such groups by name, or an option."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{name}.")
    if typing.get_origin(hint) is not Mapping:
        return option_values.checked(hint, value, name)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}; it is a group of options.")
    group = typing.get_args(hint)[1]
    if not dataclasses.is_dataclass(group):
        return dict(value)  # whoever has these options checks them
    return {key: _build(group, each, f"{name}.{key}.") for key, each in value.items()}
