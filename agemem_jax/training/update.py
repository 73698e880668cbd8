"""The update step: one optimiser step from one packed batch, as a pure jitted function.

Gradients are added up over the microbatches that are real by a loop whose trip count is
data, so batches of any size share one compilation. Scoring (log-probabilities under the
reference, or under the policy when the recorded ones are stale) is a function of its own,
called once per rollout batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.models.log_probs import token_log_probs
from agemem_jax.parallel import rules
from agemem_jax.parallel.mesh import use
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.loss import grpo_loss, means_of, sft_loss
from agemem_jax.training.packing import Batch
from agemem_jax.training.train_state import (
    OptimizerConfig,
    TrainState,
    combine,
    learning_rate,
    make_optimizer,
)

Metrics = dict[str, Float[Array, ""]]
Update = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
_DROPOUT_STREAM = 0xD809  # sets dropout apart from other uses of the run's key
Score = Callable[[Weights, Batch], Float[Array, "microbatch row target"]]


def target_log_probs(
    config: DecoderConfig,
    weights: Weights,
    batch: Batch,
    temperature: float,
    chunk: int,
    dropout_key: Key[Array, ""] | None = None,
    entropy_gradient: bool = False,
) -> tuple[Float[Array, "row target"], Float[Array, "row target"]]:
    """Log-probabilities and entropies at the targets of one microbatch.

    Only hidden states that predict a target meet the vocabulary projection.

    Args:
      config: of the decoder.
      weights: of the policy or the reference.
      batch: one microbatch, that is, a `Batch` without its first axis.
      temperature: logits are divided by it, as they were while sampling.
      chunk: targets per step of the vocabulary projection.
      dropout_key: see `decoder.forward`.
      entropy_gradient: whether gradient flows through entropies.
    """
    hidden = decoder.forward(
        config,
        weights,
        batch.tokens,
        batch.positions,
        batch.visible_to,
        prefix=batch.prefix,
        uses_prefix=batch.uses_prefix,
        dropout_key=dropout_key,
    )
    hidden = jnp.take_along_axis(hidden, batch.target_positions[..., None], axis=1)
    return token_log_probs(
        config, weights, hidden, batch.targets,
        temperature=temperature, chunk=chunk, entropy_gradient=entropy_gradient,
    )  # fmt: skip


def _microbatch(batch: Batch, index) -> Batch:
    """Takes microbatch `index`; the trip count, a scalar, stays as it is."""
    return jax.tree.map(lambda leaf: leaf[index] if leaf.ndim else leaf, batch)


def make_score(
    config: DecoderConfig,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
    mesh: Mesh | None = None,
) -> Score:
    """Builds `score(weights, batch)`: log-probabilities of a batch's targets.

    Use `batch.replace(ref_log_probs=score(reference_weights(state), batch))` for the KL
    penalty, and the same with `rescored_log_probs` and the policy's weights, before its first
    update, where what was recorded while sampling should not be trusted. Padding scores 0.
    """

    @jax.jit
    def score(weights: Weights, batch: Batch) -> Float[Array, "microbatch row target"]:
        def body(index, scores):
            part = _microbatch(batch, index)
            log_probs, _ = target_log_probs(config, weights, part, temperature, chunk)
            scores = scores.at[index].set(jnp.where(part.target_mask, log_probs, 0.0))
            return rules.constrain(scores, None, "batch", None)

        empty = jnp.zeros(batch.targets.shape, jnp.float32)
        return jax.lax.fori_loop(0, batch.num_microbatches, body, empty)

    return _Score(score, mesh)


class _Score:
    """A jitted score, called under its mesh."""

    def __init__(self, jitted, mesh: Mesh | None):
        self._jitted, self._mesh = jitted, mesh

    def __call__(self, weights: Weights, batch: Batch) -> Float[Array, "microbatch row target"]:
        with use(self._mesh):
            return self._jitted(weights, batch)

    def lower(self, weights: Weights, batch: Batch) -> jax.stages.Lowered:
        """For shapes with shardings, as those of an update."""
        with use(self._mesh):
            return self._jitted.lower(weights, batch)


class _Step:
    """An update: `loss_fn(trainable, frozen, microbatch, key) -> (loss, metrics)` and optax."""

    def __init__(self, loss_fn, optimizer: OptimizerConfig, mesh: Mesh | None):
        self._loss_fn, self._config, self._mesh = loss_fn, optimizer, mesh
        self._optimizer = make_optimizer(optimizer)
        self._compiled: Any = None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        with use(self._mesh):
            trainable, opt_state, step, metrics = self._jitted(state)(
                *self._arguments(state, batch)
            )
        return state.replace(step=step, trainable=trainable, opt_state=opt_state), metrics

    def lower(self, state: TrainState, batch: Batch) -> jax.stages.Lowered:
        """For shapes with shardings (`jax.ShapeDtypeStruct`) as for arrays."""
        with use(self._mesh):
            return self._jitted(state).lower(*self._arguments(state, batch))

    def cache_size(self) -> int:
        """How often it was compiled."""
        return 0 if self._compiled is None else self._compiled._cache_size()

    @staticmethod
    def _arguments(state: TrainState, batch: Batch):
        return state.trainable, state.opt_state, state.step, state.frozen, batch, state.key

    def _jitted(self, state: TrainState):
        """On a mesh, what comes out lies where what goes in lies."""
        if self._compiled is None:
            out = where = None
            if self._mesh is not None:
                where = jax.tree.map(lambda x: x.sharding, state.trainable)
                optimizer = jax.tree.map(lambda x: x.sharding, state.opt_state)
                out = (where, optimizer, state.step.sharding, None)
            # Frozen and reference weights stay outside of what is donated and returned: they
            # do not change, and others may hold them.
            self._compiled = jax.jit(
                functools.partial(self._run, where), donate_argnums=(0, 1), out_shardings=out
            )
        return self._compiled

    def _run(self, where, trainable, opt_state, number, frozen, batch, key):
        key = jax.random.fold_in(jax.random.fold_in(key, _DROPOUT_STREAM), number)

        def keep(grads):
            return grads if where is None else jax.lax.with_sharding_constraint(grads, where)

        def gradient(index):
            part, part_key = _microbatch(batch, index), jax.random.fold_in(key, index)
            grads, metrics = jax.grad(self._loss_fn, has_aux=True)(
                trainable, frozen, part, part_key
            )
            return keep(grads), metrics

        def body(index, total):
            grads, metrics = gradient(index)
            metrics = {
                name: jnp.maximum(total[1][name], value)
                if name.endswith("_max")
                else total[1][name] + value
                for name, value in metrics.items()
            }
            return keep(jax.tree.map(jnp.add, total[0], grads)), metrics

        zero = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gradient, 0)
        )
        zero = (keep(zero[0]), zero[1])
        grads, metrics = jax.lax.fori_loop(0, batch.num_microbatches, body, zero)
        metrics = means_of(metrics)

        grad_norm = optax.global_norm(grads)
        # An empty batch must not move anything either: momentum and decay would.
        apply = (
            jnp.isfinite(grad_norm) & jnp.isfinite(metrics["loss"]) & (batch.num_microbatches > 0)
        )
        rate = learning_rate(self._config, opt_state)
        updates, new_opt_state = self._optimizer.update(grads, opt_state, trainable)
        new = (optax.apply_updates(trainable, updates), new_opt_state)
        trainable, opt_state = jax.tree.map(
            lambda after, before: jnp.where(apply, after, before), new, (trainable, opt_state)
        )
        metrics |= {
            "grad_norm": grad_norm,
            "skipped": 1.0 - apply.astype(jnp.float32),
            "learning_rate": rate,
        }
        return trainable, opt_state, number + 1, metrics


def make_update(
    config: DecoderConfig,
    grpo: GRPOConfig,
    optimizer: OptimizerConfig,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
    mesh: Mesh | None = None,
    old_is_current: bool = False,
) -> Update:
    """Builds the policy update `update(state, batch) -> (state, metrics)` (section 3.4).

    The old state's trained weights and optimiser state are donated: use the new state.
    On the first pass over fresh rollouts the policy is the one that sampled, so the
    recorded log-probabilities serve as they are, and `sampling_gap_max`, the largest
    |log pi - recorded|, measures how well sampling and training agree.

    A batch with a gradient that is not finite, or without targets, changes nothing but
    `state.step` and reports `skipped` = 1.

    Args:
      config: of the decoder.
      grpo: of the loss; a batch needs `ref_log_probs` when `grpo.beta` is above 0.
      optimizer: of the phase; its state is in the training state.
      temperature: the one that was sampled with.
      chunk: targets of a device per step of the vocabulary projection.
      mesh: over which state and batch are spread; None on one device.
      old_is_current: the old policy is the one that is trained, as it is in the only update on
        a rollout batch: then what this update computes is what `rescored_log_probs` would
        be, and no pass of its own is needed.

    Returns:
      The update. Its metrics are those of `grpo_loss`, `entropy`, `grad_norm` (before
      clipping), `skipped` and `learning_rate`.
    """
    has_bonus = grpo.entropy_weight > 0.0

    def loss_fn(trainable, frozen, part: Batch, key):
        weights = combine(trainable, frozen)
        dropout_key = key if config.lora_dropout else None
        log_probs, entropy = target_log_probs(
            config, weights, part, temperature, chunk, dropout_key, has_bonus
        )
        old, sampler = part.old_log_probs, None
        if old_is_current:
            old, sampler = jax.lax.stop_gradient(log_probs), part.old_log_probs
        elif part.rescored_log_probs is not None:
            old, sampler = part.rescored_log_probs, part.old_log_probs
        loss, metrics = grpo_loss(
            log_probs,
            old,
            part.ref_log_probs,
            part.advantages,
            part.weights,
            part.step_ids,
            part.target_mask,
            grpo,
            sampler_log_probs=sampler,
            entropy=entropy if has_bonus else None,
        )
        return loss, metrics | {"entropy": _weighted(entropy, part)}

    return _Step(loss_fn, optimizer, mesh)


def make_sft_update(
    config: DecoderConfig,
    optimizer: OptimizerConfig,
    *,
    chunk: int = 1024,
    mesh: Mesh | None = None,
) -> Update:
    """Builds the warm-up's update: cross entropy on demonstrated actions.

    As `make_update`, at temperature 1; advantages and recorded log-probabilities are not
    read. Metrics: `loss`, `entropy`, `grad_norm`, `skipped`, `learning_rate`.
    """

    def loss_fn(trainable, frozen, part: Batch, key):
        weights = combine(trainable, frozen)
        dropout_key = key if config.lora_dropout else None
        log_probs, entropy = target_log_probs(config, weights, part, 1.0, chunk, dropout_key)
        loss, metrics = sft_loss(log_probs, part.weights, part.target_mask)
        return loss, metrics | {"entropy": _weighted(entropy, part)}

    return _Step(loss_fn, optimizer, mesh)


def _weighted(values: Float[Array, "row target"], part: Batch) -> Float[Array, ""]:
    return jnp.sum(jnp.where(part.target_mask, part.weights * values, 0.0))
