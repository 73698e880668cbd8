"""What training carries from step to step, and the optimiser that moves it.

The state is one pytree: what is trained, what is frozen beside it, the optimiser's
memory, the reference policy and a random key. Which weights act as the policy and
which as the reference follows from it by `weights` and `reference_weights`.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import Array, Float, Int, Key, PyTree

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.parallel import arrays, rules

SCHEDULES = ("constant", "cosine", "linear")
_LORA_STREAM = 0x10BA  # sets the LoRA initialisation apart from other uses of the run's key


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and clipping.

    Attributes:
      learning_rate: the peak.
      warmup_steps: optimiser steps of linear rise from 0; the first step is not zero.
      schedule: "constant", or "cosine" or "linear" decay, after the warm-up.
      total_steps: optimiser steps until the decay ends, warm-up included; None takes those of
        the run (see `RunConfig.rl_optimizer`), so that more iterations stretch it.
      final_fraction: what the decay ends at, as a share of the peak.
      b1, b2, eps: of Adam.
      weight_decay: decoupled; norms, biases and other vectors are left alone.
      max_grad_norm: the gradient's global norm is clipped to this.
    """

    learning_rate: float = 1e-5
    warmup_steps: int = 0
    schedule: str = "constant"
    total_steps: int | None = None
    final_fraction: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self):
        for name in ("learning_rate", "eps", "max_grad_norm"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}; it must be positive.")
        for name in ("b1", "b2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(
                    f"optimizer.{name} is {getattr(self, name)}; it must be in [0, 1)."
                )
        for name in ("warmup_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"optimizer.{name} is {getattr(self, name)}; it must be 0 or more."
                )
        if not 0.0 <= self.final_fraction <= 1.0:
            raise ValueError(
                f"optimizer.final_fraction is {self.final_fraction}; it must be in [0, 1]."
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"optimizer.schedule is {self.schedule!r}; it must be one of "
                f"{', '.join(SCHEDULES)}."
            )
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(
                f"optimizer.total_steps is {self.total_steps}; it must be at least 1, or None for "
                "those of the run."
            )
        if self.total_steps is not None and self.schedule != "constant":
            if self.total_steps <= self.warmup_steps:
                raise ValueError(
                    f"optimizer.total_steps is {self.total_steps}; a {self.schedule} schedule "
                    f"needs more than optimizer.warmup_steps, which is {self.warmup_steps}."
                )


@flax.struct.dataclass
class TrainState:
    """One pytree that a checkpoint saves and an update replaces.

    Attributes:
      step: update calls so far, skipped ones included.
      trainable: float32 master weights: all parameters, or the LoRA matrices.
      frozen: the base parameters when LoRA is on, else None.
      opt_state: of optax.
      reference: the reference policy's counterpart of `trainable`, in the dtypes in which it is
        read; None when beta is 0. Fresh LoRA matrices change nothing, so before a warm-up it is
        the base policy.
      key: typed random key of the run, for the caller to fold; updates leave it alone.
    """

    step: Int[Array, ""]
    trainable: PyTree
    frozen: PyTree | None
    opt_state: Any
    reference: PyTree | None
    key: Key[Array, ""]


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Learning rate by optimiser step, counted from 0.

    Raises:
      ValueError: a decay without `total_steps`.
    """
    if config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    elif config.total_steps is None:
        raise ValueError(f"A {config.schedule} schedule needs optimizer.total_steps.")
    else:
        peak, steps = config.learning_rate, config.total_steps - config.warmup_steps
        if config.schedule == "cosine":
            after = optax.cosine_decay_schedule(peak, steps, config.final_fraction)
        else:
            after = optax.linear_schedule(peak, peak * config.final_fraction, steps)
    if not config.warmup_steps:
        return after
    first = config.learning_rate / (config.warmup_steps + 1)
    rise = optax.linear_schedule(first, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([rise, after], [config.warmup_steps])


def decay_mask(params: PyTree) -> PyTree:
    """True for matrices; false for norms, biases and vectors, which are not decayed."""

    def decays(path, leaf):
        name = jax.tree_util.keystr(path).lower()
        return leaf.ndim >= 2 and not any(part in name for part in ("norm", "bias", "scale"))

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW behind global-norm clipping, as `config` says."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            make_schedule(config),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        ),
    )


def learning_rate(config: OptimizerConfig, opt_state: Any) -> Float[Array, ""]:
    """What the next update is scaled with; updates that were skipped do not count."""
    is_schedule = lambda part: isinstance(part, optax.ScaleByScheduleState)  # noqa: E731
    parts = jax.tree.leaves(opt_state, is_leaf=is_schedule)
    (state,) = [part for part in parts if is_schedule(part)]
    return jnp.asarray(make_schedule(config)(state.count), jnp.float32)


def create(
    config: DecoderConfig,
    params: PyTree,
    optimizer: OptimizerConfig,
    *,
    keep_reference: bool,
    key: Key[Array, ""],
    mesh: Mesh | None = None,
    donate: bool = False,
) -> TrainState:
    """The state before the first update.

    Args:
      config: of the decoder; it says whether LoRA is on.
      params: base parameters. What is trained of them is copied, so the caller's arrays
        outlive donated updates.
      optimizer: of the first phase.
      keep_reference: whether a reference policy is needed (beta above 0).
      key: typed random key of the run.
      mesh: of training, on which `params` are already; what else there is follows them.
      donate: `params` become part of the state, without a copy where they are float32, and
        are not the caller's any more.
    """
    own = first_weights(config, params, key=key, mesh=mesh)
    trainable = own.lora if config.lora_rank else _as_master(own.params, donate)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=own.params if config.lora_rank else None,
        opt_state=make_optimizer(optimizer).init(trainable),
        reference=_read_only_copy(config, trainable) if keep_reference else None,
        key=key,
    )
    return arrays.replicate_rest(mesh, state)


def first_weights(
    config: DecoderConfig, params: PyTree, *, key: Key[Array, ""], mesh: Mesh | None = None
) -> Weights:
    """What a run starts to act with: `params`, and fresh LoRA matrices where LoRA is on."""
    if not config.lora_rank:
        return Weights(params=params)
    lora = decoder.init_lora(config, jax.random.fold_in(key, _LORA_STREAM))
    if mesh is not None:
        lora = arrays.place(lora, lora_shardings(config, mesh))
    return Weights(params=params, lora=lora)


def abstract_state(
    config: DecoderConfig,
    optimizer: OptimizerConfig,
    *,
    keep_reference: bool,
    param_dtype: str = "float32",
    mesh: Mesh | None = None,
    device: Any = None,
) -> TrainState:
    """The state that `create` makes, as shapes with shardings; nothing is computed.

    Args:
      config: of the decoder.
      optimizer: of any phase; they all remember the same.
      keep_reference: whether there is a reference policy.
      param_dtype: of the base parameters.
      mesh: of training; None for a single device.
      device: that single one; by default this process's first.
    """
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(param_dtype)),
        decoder.abstract_params(config),
    )

    def begin(params):
        return create(
            config, params, optimizer, keep_reference=keep_reference, key=jax.random.key(0)
        )

    state = jax.eval_shape(begin, params)
    if mesh is None:
        alone = SingleDeviceSharding(device or jax.local_devices()[0])
        return arrays.abstract(state, jax.tree.map(lambda _: alone, state))
    everywhere = rules.replicated(mesh)
    base = param_shardings(config, mesh)
    trained = lora_shardings(config, mesh) if config.lora_rank else base
    shardings = state.replace(
        step=everywhere,
        trainable=trained,
        frozen=base if config.lora_rank else None,
        opt_state=optax.tree_map_params(
            make_optimizer(optimizer), lambda _, sharding: sharding, state.opt_state, trained,
            transform_non_params=lambda _: everywhere,
        ),
        reference=trained if keep_reference else None,
        key=everywhere,
    )  # fmt: skip
    return arrays.abstract(state, shardings)


def param_shardings(config: DecoderConfig, mesh: Mesh) -> PyTree:
    """Where parameters go; see `rules.shardings`."""
    rules.check_heads(mesh, config.num_heads, config.num_kv_heads)
    return rules.shardings(mesh, decoder.logical_axes(config), decoder.abstract_params(config))


def lora_shardings(config: DecoderConfig, mesh: Mesh) -> PyTree:
    """Where LoRA matrices go."""
    return rules.shardings(mesh, decoder.lora_logical_axes(config), decoder.abstract_lora(config))


def weight_shardings(config: DecoderConfig, mesh: Mesh) -> Weights:
    """Where a policy's weights go."""
    lora = lora_shardings(config, mesh) if config.lora_rank else None
    return Weights(params=param_shardings(config, mesh), lora=lora)


def restart(
    config: DecoderConfig,
    state: TrainState,
    optimizer: OptimizerConfig,
    *,
    keep_reference: bool,
    mesh: Mesh | None = None,
) -> TrainState:
    """Goes on with fresh optimiser state, and today's policy as the reference.

    So a phase starts that is held to what the phase before it ended with, as
    reinforcement learning is to the warmed-up policy. The old optimiser state and reference are
    donated: use the new state.
    """
    arrays.delete((state.opt_state, state.reference))
    state = state.replace(
        opt_state=make_optimizer(optimizer).init(state.trainable),
        reference=_read_only_copy(config, state.trainable) if keep_reference else None,
    )
    return arrays.replicate_rest(mesh, state)


def renew_reference(config: DecoderConfig, state: TrainState) -> TrainState:
    """Today's policy as the reference from now on; under LoRA that is a copy of its matrices.

    The old reference is donated: use the new state.
    """
    arrays.delete(state.reference)
    return state.replace(reference=_read_only_copy(config, state.trainable))


def _read_only_copy(config: DecoderConfig, tree: PyTree) -> PyTree:
    """Computes the same as `tree`, in as little memory as that takes."""
    return jax.tree.map(_copy, tree, decoder.read_dtypes(config, tree))


def _as_master(params: PyTree, donate: bool) -> PyTree:
    """Float32; one parameter after the other, so that those donated make room for the next."""

    def one(leaf):
        if donate and leaf.dtype == jnp.float32:
            return leaf
        copy = _copy(leaf, jnp.float32)
        if donate:
            arrays.delete(leaf)
        return copy

    return jax.tree.map(one, params)


def _copy(leaf: Array, dtype: Any) -> Array:
    """A buffer of its own, and no other one beside it."""
    return jnp.copy(leaf) if leaf.dtype == dtype else leaf.astype(dtype)


def combine(trainable: PyTree, frozen: PyTree | None) -> Weights:
    """A policy's weights from their trained and frozen parts."""
    if frozen is None:
        return Weights(params=trainable, lora=None)
    return Weights(params=frozen, lora=trainable)


def weights(state: TrainState) -> Weights:
    """What the policy acts with."""
    return combine(state.trainable, state.frozen)


def reference_weights(state: TrainState) -> Weights:
    """What the KL penalty measures against.

    Raises:
      ValueError: the state was created without a reference.
    """
    if state.reference is None:
        raise ValueError(
            "The training state holds no reference policy; create it with "
            "keep_reference=True when grpo.beta is above 0."
        )
    return combine(state.reference, state.frozen)
