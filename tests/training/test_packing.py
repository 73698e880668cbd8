"""Packing: every action token once, in its own context, with the weight of the formula."""

import dataclasses
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_jax.rollout.trajectory import Segment
from agemem_jax.training.credit.rule import Credit, Span
from agemem_jax.training.packing import PackingConfig, pack, split

CONFIG = PackingConfig(row_lengths=(16, 32), rows=2, max_microbatches=2)


def make_segment(rng, first_step, spans):
    """A segment of random ids; `spans` are (prompt tokens, action tokens) in turn."""
    mask, steps = [], []
    for number, (prompt, action) in enumerate(spans):
        mask += [False] * prompt + [True] * action
        steps += [-1] * prompt + [first_step + number] * action
    count = len(mask)
    mask = np.array(mask)
    return Segment(
        token_ids=rng.integers(1, 1000, count),
        action_mask=mask,
        step_index=np.array(steps),
        log_probs=np.where(mask, -rng.uniform(0.1, 5, count), 0.0),
    )


def make_trajectory(rng, segments):
    step, result = 0, []
    for spans in segments:
        result.append(make_segment(rng, step, spans))
        step += len(spans)
    return types.SimpleNamespace(segments=result)


SPANS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4)
BATCHES = st.lists(st.lists(SPANS, min_size=0, max_size=3), min_size=0, max_size=6)


def unpacked(batch, prefix=()):
    """Every target as (context, target, old log-prob, advantage, weight), by row and step."""
    found = []
    for microbatch, row, target in zip(*np.nonzero(batch.target_mask), strict=True):
        at = (microbatch, row, target)
        position = batch.target_positions[at]
        assert batch.visible_to[microbatch, row, position] > position
        before = [
            (int(batch.positions[microbatch, row, i]), int(batch.tokens[microbatch, row, i]))
            for i in range(position + 1)
            if batch.visible_to[microbatch, row, i] > position
        ]
        behind = bool(batch.uses_prefix[microbatch, row, position])
        lead = tuple(prefix) if behind else ()
        places = [place for place, _ in before]
        assert places == list(range(len(lead), len(lead) + len(before)))
        context = (*lead, *(token for _, token in before))
        step = (int(microbatch), int(row), int(batch.step_ids[at]))
        values = (batch.old_log_probs[at], batch.advantages[at], batch.weights[at])
        found.append((context, int(batch.targets[at]), step, tuple(map(float, values))))
    return found


@settings(max_examples=60, deadline=None)
@given(
    shape=BATCHES,
    seed=st.integers(0, 9),
    normalisation=st.sampled_from(["step", "trajectory", "token", "constant"]),
)
def test_every_action_token_is_packed_once_with_its_own_context_and_weight(
    shape, seed, normalisation
):
    rng = np.random.default_rng(seed)
    trajectories = [make_trajectory(rng, segments) for segments in shape]
    advantages = rng.normal(size=len(trajectories))
    batch = pack(trajectories, advantages, CONFIG, normalisation=normalisation, constant_length=7)

    steps = [sum(len(spans) for spans in segments) for segments in shape]
    tokens = sum(action for segments in shape for spans in segments for _, action in spans)
    playing = sum(count > 0 for count in steps)
    expected = []
    for index, trajectory in enumerate(trajectories):
        for segment in trajectory.segments:
            for i in np.flatnonzero(segment.action_mask):
                step = segment.step_index[i]
                size = int(np.sum(segment.step_index == step))
                weight = {
                    "step": 1 / (sum(steps) * size),
                    "trajectory": 1 / (playing * steps[index] * size),
                    "token": 1 / tokens,
                    "constant": 1 / (playing * 7),
                }[normalisation]
                context = tuple(segment.token_ids[:i].tolist())
                values = (segment.log_probs[i], advantages[index], weight)
                expected.append((context, int(segment.token_ids[i]), (index, int(step)), values))

    found = unpacked(batch)
    assert sorted(entry[:2] for entry in found) == sorted(entry[:2] for entry in expected)
    # Random ids make contexts unique, so they identify the target.
    names = {}
    known = {entry[:2]: entry for entry in expected}
    for context, target, packed_step, values in found:
        _, _, step, wanted = known[context, target]
        np.testing.assert_allclose(values, wanted, rtol=1e-6)
        assert names.setdefault(packed_step, step) == step
    assert len(set(names.values())) == len(names)
    if tokens and normalisation != "constant":
        np.testing.assert_allclose(batch.weights.sum(), 1.0, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(shape=BATCHES, seed=st.integers(0, 9), prefix=st.sampled_from([(), (1,), (1, 2)]))
def test_segments_that_start_alike_share_tokens_and_keep_their_contexts(shape, seed, prefix):
    """With two different ids, most segments start like others."""
    rng = np.random.default_rng(seed)
    trajectories = [make_trajectory(rng, segments) for segments in shape]
    for trajectory in trajectories:
        for segment in trajectory.segments:
            segment.token_ids = rng.integers(1, 3, len(segment.token_ids))
    batch = pack(trajectories, np.ones(len(trajectories)), CONFIG, prefix=prefix)
    expected, inputs = [], set()
    for trajectory in trajectories:
        for segment in trajectory.segments:
            ids = segment.token_ids.tolist()
            for i in np.flatnonzero(segment.action_mask):
                target = (tuple(ids[:i]), ids[i], np.float32(segment.log_probs[i]))
                expected.append(target)
                inputs.update(tuple(ids[: end + 1]) for end in range(i))
    found = []
    for context, target, _, values in unpacked(batch, prefix):
        found.append((context, target, np.float32(values[0])))
    assert sorted(found) == sorted(expected)
    rows = batch.tokens.reshape(-1, batch.tokens.shape[-1])
    used = (batch.visible_to > 0).reshape(rows.shape).sum(axis=1)
    # Behind the prefix, what all rows hold together is a path of the forest at least once.
    assert used.sum() + len(prefix) >= len(inputs)
    if (used > 0).sum() == 1 and not prefix:
        assert used.sum() == len(inputs), "a shared token stands in the row twice"


def test_the_rollouts_of_a_task_and_the_segments_of_a_trajectory_share_what_they_begin_with():
    rng = np.random.default_rng(0)
    rollouts = [make_trajectory(rng, [[(5, 2), (1, 2)], [(6, 1)]]) for _ in range(3)]
    start = rng.integers(1, 1000, 4)
    for rollout in rollouts:
        for segment in rollout.segments:
            segment.token_ids[:4] = start
    config = PackingConfig(row_lengths=(64,), rows=1, max_microbatches=2)
    batch = pack(rollouts, np.ones(3), config)
    # The last token of a segment is only a target: 10 - 1 and 7 - 1 inputs, 4 of them shared.
    assert (batch.visible_to > 0).sum() == 4 + 3 * (9 - 4) + 3 * (6 - 4)
    assert int(batch.num_microbatches) == 1 and batch.target_mask.sum() == 3 * 5

    apart = pack(rollouts, np.ones(3), dataclasses.replace(config, share=False))
    assert (apart.visible_to > 0).sum() == 3 * 9 + 3 * 6
    trained = [
        sorted((context, token, values) for context, token, _, values in unpacked(each))
        for each in (apart, batch)
    ]
    assert trained[0] == trained[1]


@settings(max_examples=30, deadline=None)
@given(shape=BATCHES)
def test_padding_is_zero_and_only_real_microbatches_hold_anything(shape):
    rng = np.random.default_rng(0)
    trajectories = [make_trajectory(rng, segments) for segments in shape]
    batch = pack(trajectories, np.ones(len(trajectories)), CONFIG)
    real = int(batch.num_microbatches)
    assert not batch.visible_to[real:].any() and not batch.target_mask[real:].any()
    assert batch.target_mask[:real].any(axis=(1, 2)).all()
    empty = batch.visible_to == 0
    assert not batch.tokens[empty].any() and not batch.positions[empty].any()
    for name in ("targets", "weights", "old_log_probs", "advantages", "step_ids"):
        assert not getattr(batch, name)[~batch.target_mask].any()


def test_shapes_are_the_same_for_any_number_of_segments_that_fits():
    rng = np.random.default_rng(0)
    shapes = set()
    for count in (1, 3, 6):
        trajectories = [make_trajectory(rng, [[(3, 2)], [(5, 1)]]) for _ in range(count)]
        batch = pack(trajectories, np.ones(count), CONFIG)
        shapes.add((batch.tokens.shape, batch.targets.shape))
    assert shapes == {((2, 2, 16), (2, 2, 16))}


def test_the_row_length_is_the_smallest_that_the_longest_segment_fits_in():
    rng = np.random.default_rng(0)
    # The last token is only a target and takes no place in the row.
    for prompt, length in ((16, 16), (17, 32), (32, 32)):
        batch = pack([make_trajectory(rng, [[(prompt, 1)]])], [1.0], CONFIG)
        assert batch.tokens.shape[-1] == length


def test_a_batch_with_too_many_microbatches_gets_double_the_room():
    rng = np.random.default_rng(0)
    trajectories = [make_trajectory(rng, [[(30, 2)]]) for _ in range(9)]
    batch = pack(trajectories, np.ones(9), CONFIG)
    assert int(batch.num_microbatches) == 5
    assert batch.tokens.shape[0] == 8
    assert batch.target_mask.sum() == 18


def test_rows_take_no_more_targets_than_allowed():
    rng = np.random.default_rng(0)
    config = PackingConfig(row_lengths=(32,), max_targets=4, rows=2, max_microbatches=2)
    trajectories = [make_trajectory(rng, [[(2, 3)]]) for _ in range(4)]
    batch = pack(trajectories, np.ones(4), config)
    assert batch.targets.shape == (2, 2, 4)
    assert batch.target_mask.sum() == 12
    # A longer segment gets a wider batch: a run must not end for it.
    for count, width in ((5, 8), (9, 32)):
        batch = pack([make_trajectory(rng, [[(2, count)]])], [1.0], config)
        assert batch.targets.shape == (2, 2, width)
        assert batch.target_mask.sum() == count


def test_tokens_behind_the_last_action_and_segments_without_actions_are_left_out():
    rng = np.random.default_rng(0)
    trajectory = make_trajectory(rng, [[(2, 2), (9, 0)], [(4, 0)]])
    batch = pack([trajectory], [1.0], CONFIG)
    assert (batch.visible_to > 0).sum() == 3
    np.testing.assert_array_equal(batch.tokens[0, 0, :3], trajectory.segments[0].token_ids[:3])


def test_one_advantage_is_that_of_every_step_bit_for_bit():
    rng = np.random.default_rng(4)
    trajectories = [make_trajectory(rng, [[(3, 2), (2, 2)], [(4, 1)]]) for _ in range(4)]
    values = rng.normal(size=4).astype(np.float32)
    credits = np.empty(4, object)
    credits[:] = [Credit(np.full(3, value, np.float32)) for value in values]
    plain, by_step = pack(trajectories, values, CONFIG), pack(trajectories, credits, CONFIG)
    for name, array in vars(plain).items():
        assert array is None or array.tobytes() == getattr(by_step, name).tobytes(), name


@pytest.mark.parametrize("share", [True, False])
def test_advantages_reach_the_steps_and_tokens_that_they_are_of(share):
    rng = np.random.default_rng(5)
    trajectories = [make_trajectory(rng, [[(3, 2), (2, 3)], [(4, 3)]]) for _ in range(3)]
    # As an edit leaves it: the third segment begins like the first.
    for trajectory in trajectories:
        trajectory.segments[1].token_ids[:3] = trajectory.segments[0].token_ids[:3]
    wanted, credits = {}, []
    for number, trajectory in enumerate(trajectories):
        steps = rng.normal(size=3).astype(np.float32)
        spans = [Span(1, 1, 3, 10.0 + number), Span(2, 0, 2, 20.0 + number)]
        credits.append(Credit(steps, spans))
        added = {0: (0, 0), 1: (0, 10 + number, 10 + number), 2: (20 + number, 20 + number, 0)}
        for segment in trajectory.segments:
            for place in np.flatnonzero(segment.action_mask):
                step = int(segment.step_index[place])
                token = place - int(np.flatnonzero(segment.step_index == step)[0])
                # The recorded log-probability, which no two tokens share, names the token.
                key = np.float32(segment.log_probs[place])
                wanted[key] = np.float32(steps[step] + np.float32(added[step][token]))
    batch = pack(trajectories, credits, dataclasses.replace(CONFIG, share=share))
    mask = batch.target_mask
    found = dict(zip(batch.old_log_probs[mask], batch.advantages[mask], strict=True))
    assert found == wanted and len(found) == 24


def test_packing_is_deterministic():
    batches = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        trajectories = [make_trajectory(rng, [[(3, 2), (2, 2)], [(4, 1)]]) for _ in range(5)]
        batches.append(pack(trajectories, np.arange(5.0), CONFIG))
    np.testing.assert_array_equal(batches[0].tokens, batches[1].tokens)
    np.testing.assert_array_equal(batches[0].advantages, batches[1].advantages)


def test_a_segment_longer_than_every_row_is_refused():
    trajectory = make_trajectory(np.random.default_rng(0), [[(32, 2)]])
    with pytest.raises(ValueError, match=r"needs 33 tokens .*row_lengths is 32"):
        pack([trajectory], [1.0], CONFIG)


def test_a_step_in_two_segments_is_refused():
    rng = np.random.default_rng(0)
    segments = [make_segment(rng, 4, [(2, 2)]), make_segment(rng, 4, [(2, 2)])]
    with pytest.raises(ValueError, match="Step 4 of trajectory 0 .* segments 0 and 1"):
        pack([types.SimpleNamespace(segments=segments)], [1.0], CONFIG)


def test_an_action_without_a_prompt_is_refused():
    segment = make_segment(np.random.default_rng(0), 0, [(0, 2)])
    with pytest.raises(ValueError, match="starts with an action token"):
        pack([types.SimpleNamespace(segments=[segment])], [1.0], CONFIG)


@pytest.mark.parametrize(
    "option, value",
    [("row_lengths", ()), ("row_lengths", (32, 16)), ("rows", 0), ("max_targets", 0)],
)
def test_a_wrong_shape_is_refused_by_its_name(option, value):
    with pytest.raises(ValueError, match=rf"packing\.{option} is "):
        PackingConfig(**{option: value})


def test_minibatches_cover_every_trajectory_once():
    shares = split(7, 3, np.random.default_rng(0))
    assert sorted(np.concatenate(shares).tolist()) == list(range(7))
    assert sorted(len(share) for share in shares) == [2, 2, 3]
    assert [share.tolist() for share in split(2, 4)] == [[0], [1]]
