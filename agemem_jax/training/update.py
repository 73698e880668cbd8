"""The update step: one optimiser step from one packed batch, as a pure jitted function.

Gradients are added up over the microbatches that are real by a loop whose trip count is
data, so batches of any size share one compilation. Scoring (log-probabilities under the
reference, or under the policy when the recorded ones are stale) is a function of its own,
called once per rollout batch.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.models.log_probs import token_log_probs
from agemem_jax.training.loss import GRPOConfig, grpo_loss, sft_loss
from agemem_jax.training.packing import Batch
from agemem_jax.training.train_state import (
    OptimizerConfig,
    TrainState,
    combine,
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
    flat = hidden.reshape(-1, hidden.shape[-1])
    log_probs, entropy = token_log_probs(
        config,
        weights,
        flat,
        batch.targets.reshape(-1),
        temperature=temperature,
        chunk=min(chunk, flat.shape[0]),
    )
    shape = batch.targets.shape
    return log_probs.reshape(shape), entropy.reshape(shape)


def _microbatch(batch: Batch, index) -> Batch:
    """Takes microbatch `index`; the trip count, a scalar, stays as it is."""
    return jax.tree.map(lambda leaf: leaf[index] if leaf.ndim else leaf, batch)


def make_score(config: DecoderConfig, *, temperature: float = 1.0, chunk: int = 1024) -> Score:
    """Builds `score(weights, batch)`: log-probabilities of a batch's targets.

    Use `batch.replace(ref_log_probs=score(reference_weights(state), batch))` for the KL
    penalty, and the same with `old_log_probs` and the policy's weights where what was
    recorded while sampling should not be trusted. Padding scores 0.
    """

    @jax.jit
    def score(weights: Weights, batch: Batch) -> Float[Array, "microbatch row target"]:
        def body(index, scores):
            part = _microbatch(batch, index)
            log_probs, _ = target_log_probs(config, weights, part, temperature, chunk)
            return scores.at[index].set(jnp.where(part.target_mask, log_probs, 0.0))

        empty = jnp.zeros(batch.targets.shape, jnp.float32)
        return jax.lax.fori_loop(0, batch.num_microbatches, body, empty)

    return score


def _make(loss_fn, optimizer: optax.GradientTransformation) -> Update:
    """Wraps `loss_fn(trainable, frozen, microbatch, key) -> (loss, metrics)` into an update."""

    # Frozen and reference weights stay outside of what is donated and returned: they do
    # not change, and others may hold them.
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(trainable, opt_state, frozen, batch, key):
        def gradient(index):
            part, part_key = _microbatch(batch, index), jax.random.fold_in(key, index)
            grads, metrics = jax.grad(loss_fn, has_aux=True)(trainable, frozen, part, part_key)
            return grads, metrics

        def body(index, total):
            grads, metrics = gradient(index)
            metrics = {
                name: jnp.maximum(total[1][name], value)
                if name.endswith("_max")
                else total[1][name] + value
                for name, value in metrics.items()
            }
            return jax.tree.map(jnp.add, total[0], grads), metrics

        zero = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gradient, 0)
        )
        grads, metrics = jax.lax.fori_loop(0, batch.num_microbatches, body, zero)

        grad_norm = optax.global_norm(grads)
        # An empty batch must not move anything either: momentum and decay would.
        apply = (
            jnp.isfinite(grad_norm) & jnp.isfinite(metrics["loss"]) & (batch.num_microbatches > 0)
        )
        updates, new_opt_state = optimizer.update(grads, opt_state, trainable)
        new = (optax.apply_updates(trainable, updates), new_opt_state)
        trainable, opt_state = jax.tree.map(
            lambda after, before: jnp.where(apply, after, before), new, (trainable, opt_state)
        )
        metrics |= {"grad_norm": grad_norm, "skipped": 1.0 - apply.astype(jnp.float32)}
        return trainable, opt_state, metrics

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.fold_in(state.key, _DROPOUT_STREAM), state.step)
        trainable, opt_state, metrics = step(
            state.trainable, state.opt_state, state.frozen, batch, key
        )
        state = state.replace(step=state.step + 1, trainable=trainable, opt_state=opt_state)
        return state, metrics

    update.cache_size = step._cache_size  # how often it was compiled, for tests
    return update


def make_update(
    config: DecoderConfig,
    grpo: GRPOConfig,
    optimizer: OptimizerConfig,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
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
      chunk: targets per step of the vocabulary projection.

    Returns:
      The update. Its metrics are those of `grpo_loss`, `entropy`, `grad_norm` (before
      clipping) and `skipped`.
    """

    def loss_fn(trainable, frozen, part: Batch, key):
        weights = combine(trainable, frozen)
        dropout_key = key if config.lora_dropout else None
        log_probs, entropy = target_log_probs(
            config, weights, part, temperature, chunk, dropout_key
        )
        loss, metrics = grpo_loss(
            log_probs,
            part.old_log_probs,
            part.ref_log_probs,
            part.advantages,
            part.weights,
            part.step_ids,
            part.target_mask,
            grpo,
        )
        return loss, metrics | {"entropy": _weighted(entropy, part)}

    return _make(loss_fn, make_optimizer(optimizer))


def make_sft_update(
    config: DecoderConfig,
    optimizer: OptimizerConfig,
    *,
    chunk: int = 1024,
) -> Update:
    """Builds the warm-up's update: cross entropy on demonstrated actions.

    As `make_update`, at temperature 1; advantages and recorded log-probabilities are not
    read. Metrics: `loss`, `entropy`, `grad_norm`, `skipped`.
    """

    def loss_fn(trainable, frozen, part: Batch, key):
        weights = combine(trainable, frozen)
        dropout_key = key if config.lora_dropout else None
        log_probs, entropy = target_log_probs(config, weights, part, 1.0, chunk, dropout_key)
        loss, metrics = sft_loss(log_probs, part.weights, part.target_mask)
        return loss, metrics | {"entropy": _weighted(entropy, part)}

    return _make(loss_fn, make_optimizer(optimizer))


def _weighted(values: Float[Array, "row target"], part: Batch) -> Float[Array, ""]:
    return jnp.sum(jnp.where(part.target_mask, part.weights * values, 0.0))
