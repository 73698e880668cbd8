"""The update against steps recomputed one by one, and what it does to bad batches."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_jax.models import decoder
from agemem_jax.models.log_probs import token_log_probs
from agemem_jax.rollout.trajectory import Segment
from agemem_jax.training import train_state, update
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.loss import grpo_loss
from agemem_jax.training.packing import PackingConfig, pack
from agemem_jax.training.train_state import OptimizerConfig

VOCABULARY = 64
PACKING = PackingConfig(row_lengths=(48,), rows=2, max_microbatches=4)
ADVANTAGES = np.array([0.9, -1.2, 0.4])
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=2, weight_decay=0.1)


def make_segment(rng, first_step, spans):
    """Random ids; `spans` are (prompt tokens, action tokens) in turn."""
    mask = np.concatenate([np.arange(p + a) >= p for p, a in spans])
    steps = np.concatenate([np.full(p + a, first_step + i) for i, (p, a) in enumerate(spans)])
    return Segment(
        token_ids=rng.integers(1, VOCABULARY, len(mask)),
        action_mask=mask,
        step_index=np.where(mask, steps, -1),
        log_probs=np.where(mask, -rng.uniform(2.0, 6.0, len(mask)), 0.0),
    )


def make_trajectories(seed=0):
    """Three rollouts with one to three segments of one to three steps.

    All first segments start alike, two of them further than the third, and the first
    trajectory's second segment starts like its first, an action included.
    """
    rng = np.random.default_rng(seed)
    shapes = [
        [[(5, 3), (4, 2), (2, 4)], [(7, 2)]],
        [[(6, 1)], [(3, 5), (4, 4)], [(12, 3)]],
        [[(4, 6), (3, 1)]],
    ]
    result = []
    for shape in shapes:
        step, segments = 0, []
        for spans in shape:
            segments.append(make_segment(rng, step, spans))
            step += len(spans)
        result.append(types.SimpleNamespace(segments=segments))
    first, second, third = (trajectory.segments for trajectory in result)
    second[0].token_ids[:4] = third[0].token_ids[:4] = first[0].token_ids[:4]
    third[0].token_ids[4:6] = second[0].token_ids[4:6]
    first[1].token_ids[:6] = first[0].token_ids[:6]
    return result


@pytest.fixture(scope="module")
def model(tiny_decoder_config):
    """A decoder whose matrices keep the scale of what they multiply, so that attention and
    predictions are far from uniform and every gradient matters."""
    config = tiny_decoder_config
    params = decoder.init_params(config, jax.random.key(0))
    return config, jax.tree.map(lambda p: 8.0 * p if p.ndim == 2 else p, params)


def fresh_state(config, params, beta=0.1):
    return train_state.create(
        config, params, OPTIMIZER, keep_reference=beta > 0, key=jax.random.key(5)
    )


def other_params(params):
    """Stands in for a reference policy that is not the policy."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    moved = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def each_step(trajectories):
    """Every step alone: (context, action ids, sampling log-probabilities, trajectory)."""
    for index, trajectory in enumerate(trajectories):
        for segment in trajectory.segments:
            for step in np.unique(segment.step_index[segment.action_mask]):
                places = np.flatnonzero(segment.step_index == step)
                yield (
                    segment.token_ids[: places[0]],
                    segment.token_ids[places],
                    segment.log_probs[places],
                    index,
                )


def log_probs_alone(config, params, sequences):
    """Log-probabilities of `tokens[1:]` of every sequence, one sequence per row.

    Rows are filled up behind their sequence, where causal attention cannot see it, so that
    one compilation does for all; nothing is packed.
    """
    length = PACKING.row_lengths[0]
    tokens = np.stack([np.pad(s, (0, length + 1 - len(s))) for s in sequences])
    positions = np.broadcast_to(np.arange(length), (len(tokens), length))
    weights = decoder.Weights(params)
    hidden = decoder.forward(config, weights, tokens[:, :-1], positions)
    log_probs, _ = token_log_probs(
        config,
        weights,
        hidden.reshape(-1, hidden.shape[-1]),
        tokens[:, 1:].reshape(-1),
        chunk=length,
    )
    return log_probs.reshape(positions.shape)


def stepwise_loss(config, params, reference, trajectories, grpo):
    """J of section 3.4 summed step by step, each in a sequence of its own; minus J."""
    steps = list(each_step(trajectories))
    sequences = [np.concatenate([context, action]) for context, action, _, _ in steps]
    policy = log_probs_alone(config, params, sequences)
    base = log_probs_alone(config, reference, sequences)
    loss = 0.0
    for row, (context, action, sampled, index) in enumerate(steps):
        span = slice(len(context) - 1, len(context) - 1 + len(action))
        log_ratio = policy[row, span] - sampled
        if grpo.ratio == "sequence":
            log_ratio = jnp.mean(log_ratio) * jnp.ones(len(action))
        d = policy[row, span] - base[row, span]
        objective = jnp.exp(log_ratio) * ADVANTAGES[index] - grpo.beta * (jnp.exp(-d) - 1 + d)
        loss = loss - jnp.mean(objective) / len(steps)
    return loss


def packed_gradient(config, params, batch, grpo):
    """Gradient and loss of the whole batch, by the functions that the update uses."""

    def loss_fn(params):
        total = 0.0
        for index in range(int(batch.num_microbatches)):
            part = jax.tree.map(lambda leaf, i=index: leaf[i] if np.ndim(leaf) else leaf, batch)
            log_probs, _ = update.target_log_probs(config, decoder.Weights(params), part, 1.0, 32)
            total += grpo_loss(
                log_probs, part.old_log_probs, part.ref_log_probs, part.advantages, part.weights,
                part.step_ids, part.target_mask, grpo,
            )[0]  # fmt: skip
        return total

    return jax.jit(jax.value_and_grad(loss_fn))(params)


def assert_close(actual, expected, rtol):
    """Relative to each array's largest entry: single entries may cancel to nothing."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * float(jnp.abs(b).max()))


def scored(config, reference, batch):
    score = update.make_score(config, chunk=32)
    return batch.replace(ref_log_probs=score(decoder.Weights(reference), batch))


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_segment_gradients_equal_those_of_each_step_in_its_own_full_context(model, ratio):
    config, params = model
    grpo = GRPOConfig(ratio=ratio, beta=0.1)
    trajectories, reference = make_trajectories(), other_params(params)
    # Sampling log-probabilities near the policy's, so that ratios are near 1.
    segments = [segment for trajectory in trajectories for segment in trajectory.segments]
    exact = log_probs_alone(config, params, [segment.token_ids for segment in segments])
    for segment, values in zip(segments, np.asarray(exact), strict=True):
        near = values[: len(segment.token_ids) - 1]
        near = near + 0.1 * np.sin(np.arange(len(near)))
        segment.log_probs[1:] = np.where(segment.action_mask[1:], near, 0.0)
    batch = scored(config, reference, pack(trajectories, ADVANTAGES, PACKING))
    expected = jax.jit(
        jax.value_and_grad(lambda p: stepwise_loss(config, p, reference, trajectories, grpo))
    )(params)
    loss, gradient = packed_gradient(config, params, batch, grpo)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    assert_close(gradient, expected[1], rtol=1e-5)


def test_accumulated_microbatches_update_like_one_big_batch(model):
    config, params = model
    trajectories = make_trajectories()
    grpo = GRPOConfig(beta=0.1)
    results = []
    for packing in (
        PackingConfig(row_lengths=(48,), rows=1, max_microbatches=4),
        PackingConfig(row_lengths=(48,), rows=4, max_microbatches=1),
    ):
        batch = scored(config, other_params(params), pack(trajectories, ADVANTAGES, packing))
        make = update.make_update(config, grpo, OPTIMIZER, chunk=32)
        state, metrics = make(fresh_state(config, params), batch)
        results.append((int(batch.num_microbatches), state, metrics))
    assert results[0][0] > 1 and results[1][0] == 1
    for name in results[1][2]:
        np.testing.assert_allclose(
            results[0][2][name], results[1][2][name], rtol=2e-5, atol=1e-6, err_msg=name
        )
    # First moments are the clipped gradients; Adam's quotient would blow rounding up.
    moments = [jax.tree.leaves(state.opt_state) for _, state, _ in results]
    assert_close(moments[0], moments[1], rtol=1e-5)


def test_the_update_reports_the_loss_and_gradient_norm_of_the_batch(model):
    config, params = model
    grpo = GRPOConfig(beta=0.1, clip_low=0.2, clip_high=0.2)
    batch = scored(config, other_params(params), pack(make_trajectories(), ADVANTAGES, PACKING))
    loss, gradient = packed_gradient(config, params, batch, grpo)
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))
    _, metrics = update.make_update(config, grpo, OPTIMIZER, chunk=32)(
        fresh_state(config, params), batch
    )
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    assert float(metrics["skipped"]) == 0.0
    assert 0.0 < float(metrics["entropy"]) <= np.log(VOCABULARY) + 1e-5


def test_the_only_update_on_a_batch_scores_the_old_policy_by_itself(model):
    """Entropy bonus and correction against plain log-softmax over every token's logits at once."""
    config, params = model
    batch = pack(make_trajectories(), ADVANTAGES, PACKING)
    grpo = GRPOConfig(beta=0.0, entropy_weight=2.0, correction="truncate", correction_cap=1.5)

    def plain(params):
        total = 0.0
        for index in range(int(batch.num_microbatches)):
            part = jax.tree.map(lambda leaf, i=index: leaf[i] if np.ndim(leaf) else leaf, batch)
            weights = decoder.Weights(params)
            hidden = decoder.forward(
                config, weights, part.tokens, part.positions, part.visible_to,
                prefix=part.prefix, uses_prefix=part.uses_prefix,
            )  # fmt: skip
            hidden = jnp.take_along_axis(hidden, part.target_positions[..., None], axis=1)
            flat = hidden.reshape(-1, hidden.shape[-1])
            log_probs = jax.nn.log_softmax(decoder.unembed(config, weights, flat))
            entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
            chosen = log_probs[jnp.arange(len(flat)), part.targets.reshape(-1)]
            old = jax.lax.stop_gradient(chosen)
            factor = jnp.minimum(jnp.exp(old - part.old_log_probs.reshape(-1)), 1.5)
            term = factor * jnp.exp(chosen - old) * part.advantages.reshape(-1)
            term += grpo.entropy_weight * entropy
            total -= jnp.sum(jnp.where(part.target_mask, part.weights, 0.0).reshape(-1) * term)
        return total

    loss, expected = jax.jit(jax.value_and_grad(plain))(params)
    state, metrics = update.make_update(config, grpo, OPTIMIZER, chunk=32, old_is_current=True)(
        fresh_state(config, params, beta=0.0), batch
    )
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(expected)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    # Adam's first moment is a tenth of the gradient (b1 = 0.9), clipped to norm 1.
    adam = next(p for p in jax.tree.leaves(state.opt_state, is_leaf=is_adam) if is_adam(p))
    moments = jax.tree.map(lambda m: 10.0 * m * max(norm, 1.0), adam.mu)
    assert_close(moments, expected, rtol=1e-5)
    assert float(metrics["ratio_max"]) == 1.0
    assert 0 < float(metrics["correction_share"]) < 1


def is_adam(part):
    return isinstance(part, optax.ScaleByAdamState)


@pytest.fixture(scope="module")
def compiled(model):
    """One update shared by the tests that only vary data."""
    return update.make_update(model[0], GRPOConfig(beta=0.0), OPTIMIZER, chunk=32)


def test_batches_of_any_size_share_one_compilation(model, compiled):
    config, params = model
    trajectories = [t for seed in range(3) for t in make_trajectories(seed)]
    state = fresh_state(config, params, beta=0.0)
    sizes = set()
    state, _ = compiled(state, pack(trajectories[:1], ADVANTAGES[:1], PACKING))
    before = compiled.cache_size()
    for count in (1, 2, 3, 9):
        picked = trajectories[:count]
        batch = pack(picked, np.resize(ADVANTAGES, count), PACKING)
        sizes.add(int(batch.num_microbatches))
        state, _ = compiled(state, batch)
    assert len(sizes) > 1
    assert compiled.cache_size() == before
    assert int(state.step) == 5


@settings(max_examples=5, deadline=None)
@given(value=st.sampled_from([np.nan, np.inf, -np.inf]), row=st.integers(0, 1))
def test_an_update_that_is_not_finite_is_skipped_and_counted(model, compiled, value, row):
    config, params = model
    batch = pack(make_trajectories(), ADVANTAGES, PACKING)
    state, _ = compiled(fresh_state(config, params, beta=0.0), batch)
    before = jax.tree.map(np.array, (state.trainable, state.opt_state))
    place = (0, row, int(np.flatnonzero(batch.target_mask[0, row])[0]))
    bad = batch.replace(advantages=batch.advantages.copy())
    bad.advantages[place] = value
    state, metrics = compiled(state, bad)
    assert float(metrics["skipped"]) == 1.0
    assert int(state.step) == 2
    jax.tree.map(np.testing.assert_array_equal, before, (state.trainable, state.opt_state))
    _, metrics = compiled(state, batch)
    assert float(metrics["skipped"]) == 0.0


def test_an_empty_batch_changes_nothing(model, compiled):
    config, params = model
    state, _ = compiled(
        fresh_state(config, params, beta=0.0), pack(make_trajectories(), ADVANTAGES, PACKING)
    )
    before = jax.tree.map(np.array, (state.trainable, state.opt_state))
    state, metrics = compiled(state, pack([], [], PACKING))
    assert float(metrics["skipped"]) == 1.0
    jax.tree.map(np.testing.assert_array_equal, before, (state.trainable, state.opt_state))


def test_under_lora_only_the_low_rank_matrices_move_and_the_base_is_the_reference(model):
    config, params = model
    config = dataclasses.replace(config, lora_rank=2, lora_targets=("q_proj", "v_proj"))
    state = fresh_state(config, params)
    batch = pack(make_trajectories(), ADVANTAGES, PACKING)
    score = update.make_score(config, chunk=32)
    by_base = score(decoder.Weights(params), batch)
    by_reference = score(train_state.reference_weights(state), batch)
    np.testing.assert_allclose(by_reference, by_base, rtol=1e-6)
    batch = batch.replace(ref_log_probs=by_reference)
    make = update.make_update(config, GRPOConfig(beta=0.1), OPTIMIZER, chunk=32)
    before = jax.tree.map(np.array, state.trainable)
    state, metrics = make(state, batch)
    np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-6)
    assert state.frozen is params
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, state.trainable)
    # While B is zero, A gets no gradient: the first step moves B (and decays A).
    assert all(jax.tree.leaves(moved))
    state, metrics = make(state, batch)
    assert float(metrics["kl"]) > 0.0


def test_scores_are_those_of_every_step_in_its_own_context(model):
    config, params = model
    trajectories = make_trajectories()
    batch = scored(config, params, pack(trajectories, ADVANTAGES, PACKING))
    steps = list(each_step(trajectories))
    alone = log_probs_alone(config, params, [np.concatenate(step[:2]) for step in steps])
    expected = []
    for (context, action, _, _), row in zip(steps, np.asarray(alone), strict=True):
        scores = row[len(context) - 1 : len(context) - 1 + len(action)]
        expected += list(zip(action.tolist(), scores.tolist(), strict=True))
    scores = np.asarray(batch.ref_log_probs)[batch.target_mask].tolist()
    found = list(zip(batch.targets[batch.target_mask].tolist(), scores, strict=True))
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-5)
    assert not np.asarray(batch.ref_log_probs)[~batch.target_mask].any()


def test_the_warm_up_learns_a_demonstration_by_heart(model):
    config, params = model
    trajectories = make_trajectories()
    step = update.make_sft_update(config, OPTIMIZER, chunk=32)
    state = fresh_state(config, params, beta=0.0)
    batch = pack(trajectories, np.ones(3), PACKING, normalisation="token")
    losses = []
    for _ in range(40):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[0] > np.log(VOCABULARY) / 2
    assert losses[-1] < 0.1 * losses[0]


def test_the_update_raises_what_was_rewarded_and_lowers_what_was_not(model, compiled):
    config, params = model
    batch = pack(make_trajectories(), np.array([1.0, -1.0, 1.0]), PACKING)
    score = update.make_score(config, chunk=32)
    state = fresh_state(config, params, beta=0.0)
    before = score(train_state.weights(state), batch)
    batch = batch.replace(old_log_probs=np.asarray(before))
    for _ in range(3):
        state, metrics = compiled(state, batch)
    after = score(train_state.weights(state), batch)
    change = np.asarray(after - before)
    assert change[batch.advantages > 0].mean() > 0 > change[batch.advantages < 0].mean()
    assert float(metrics["sampling_gap_max"]) > 0
