"""Several updates as one line, what goes through them, and how busy they keep devices."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from agemem_jax.models import decoder, flops
from agemem_jax.planning import chips
from agemem_jax.rollout.generation import EngineConfig
from agemem_jax.training import train_state, update
from agemem_jax.training.configuration import run_config
from agemem_jax.training.configuration.grpo_config import GRPOConfig
from agemem_jax.training.faults import FaultConfig, Faults
from agemem_jax.training.learner import Learner, over_updates
from agemem_jax.training.monitoring import banner, throughput
from agemem_jax.training.monitoring.throughput import Stopwatch, Work
from agemem_jax.training.packing import PackingConfig, pack, split
from agemem_jax.training.train_state import OptimizerConfig
from tests.training.test_update import ADVANTAGES, make_trajectories

PREFIX = (3, 1, 4)


def an_update(**changes):
    values = {
        "loss": 1.0, "ratio_max": 2.0, "sampling_gap_max": 0.1, "grad_norm": 3.0, "skipped": 0.0,
        "learning_rate": 0.5,
    }  # fmt: skip
    return values | changes


def test_means_weigh_an_update_by_what_it_was_on():
    line = over_updates([an_update(loss=1.0), an_update(loss=4.0)], [10, 20])
    assert line["loss"] == pytest.approx(3.0)


def test_largest_values_are_of_all_updates_and_the_sampling_gap_of_the_first():
    first = an_update(ratio_max=5.0, sampling_gap_max=0.1, grad_norm=1.0)
    line = over_updates([first, an_update(sampling_gap_max=9.0, learning_rate=0.25)], [1, 1])
    assert (line["ratio_max"], line["sampling_gap_max"]) == (5.0, 0.1)
    assert (line["grad_norm"], line["grad_norm_max"]) == (2.0, 3.0)
    assert line["learning_rate"] == 0.25


def test_a_skipped_update_is_counted_and_in_no_mean():
    bad = an_update(loss=np.nan, grad_norm=np.nan, ratio_max=np.inf, skipped=1.0)
    line = over_updates([bad, an_update()], [5, 1])
    assert (line["updates"], line["skipped"]) == (2, 1)
    assert (line["loss"], line["ratio_max"], line["grad_norm_max"]) == (1.0, 2.0, 3.0)
    assert np.isnan(over_updates([bad], [5])["loss"])
    assert over_updates([], []) == {"updates": 0, "skipped": 0}


@pytest.fixture(scope="module")
def small(tiny_decoder_config):
    grpo = GRPOConfig(group_size=2, beta=0.1, minibatches=3)
    config = dataclasses.replace(
        run_config.RunConfig(),
        grpo=grpo,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=8),
        packing=PackingConfig(row_lengths=(10_240,)),
    )
    # What is not compared with the episodes' budgets may be short.
    object.__setattr__(
        config, "packing", PackingConfig(row_lengths=(48,), rows=2, max_microbatches=4)
    )
    params = decoder.init_params(tiny_decoder_config, jax.random.key(0))

    def state():
        return train_state.create(
            tiny_decoder_config, params, config.optimizer, keep_reference=True,
            key=jax.random.key(5),
        )  # fmt: skip

    return types.SimpleNamespace(config=config, model=tiny_decoder_config, state=state)


def improve(small, advantages):
    clock = Stopwatch()
    state, outcome = Learner(small.config, small.model, None).improve(
        small.state(), make_trajectories(), advantages, (), np.random.default_rng(0), clock
    )
    return state, outcome, clock


def test_every_minibatch_is_scored_trained_on_and_told_of(small):
    """As updates one after the other, each on its own share."""
    state, outcome, clock = improve(small, ADVANTAGES)
    assert set(clock.seconds) == {"packing_seconds", "score_seconds", "update_seconds"}
    grpo, expected = small.config.grpo, small.state()
    step = update.make_update(small.model, grpo, small.config.optimizer)
    score = update.make_score(small.model)
    order = np.random.default_rng(0).permutation(3)
    told, units, trajectories = [], [], make_trajectories()
    for index in order:
        batch = pack([trajectories[index]], ADVANTAGES[[index]], small.config.packing)
        scores = score(train_state.reference_weights(expected), batch)
        expected, values = step(expected, batch.replace(ref_log_probs=scores))
        told.append(jax.device_get(values))
        found = [s.step_index[s.action_mask] for s in trajectories[index].segments]
        units.append(len(np.unique(np.concatenate(found))))
    for one, other in zip(
        jax.tree.leaves(state.trainable), jax.tree.leaves(expected.trainable), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert list(outcome.units) == units
    line = outcome.metrics()
    for name in ("loss", "kl", "entropy", "ratio_mean"):
        mean = sum(n * float(values[name]) for n, values in zip(units, told, strict=True))
        assert line[name] == pytest.approx(mean / sum(units), rel=1e-6)
    assert line["learning_rate"] == pytest.approx(1e-2 * 3 / 9)  # the third of eight steps up


def test_the_old_policy_is_scored_once_and_stays_the_one_that_sampled(small):
    """Over two epochs of the same minibatches, of which the first update moves the policy."""
    grpo = GRPOConfig(
        group_size=2, beta=0.1, minibatches=2, epochs=2, correction="mask", correction_cap=1e3
    )
    config = dataclasses.replace(run_config.RunConfig(), grpo=grpo, optimizer=OptimizerConfig())
    for name in ("packing", "optimizer"):
        object.__setattr__(config, name, getattr(small.config, name))
    learner = Learner(config, small.model, None)
    state, outcome = learner.improve(
        small.state(), make_trajectories(), ADVANTAGES, (), np.random.default_rng(0), Stopwatch()
    )

    expected, trajectories = small.state(), make_trajectories()
    step, score = learner._grpo_update, learner._score
    shares = split(3, 2, np.random.default_rng(0))
    batches = [
        pack([trajectories[i] for i in share], ADVANTAGES[share], config.packing)
        for share in shares
    ]
    reference = [score(train_state.reference_weights(expected), b) for b in batches]
    old = [score(train_state.weights(expected), b) for b in batches]
    told = []
    for index in (0, 1, 0, 1):
        batch = batches[index].replace(
            ref_log_probs=reference[index], rescored_log_probs=old[index]
        )
        expected, values = step(expected, batch)
        told.append(jax.device_get(values))
    for one, two in zip(
        jax.tree.leaves(state.trainable), jax.tree.leaves(expected.trainable), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    assert [float(each["loss"]) for each in outcome.updates] == [float(v["loss"]) for v in told]
    first, *later = told
    assert float(first["ratio_max"]) == pytest.approx(1.0, abs=1e-5)
    assert all(float(each["ratio_max"]) > 1.01 for each in later)
    # What was recorded is far from the policy here, and stays as far whatever updates do.
    assert float(first["correction_max"]) == float(told[2]["correction_max"]) > 2.0
    assert float(first["sampling_kl"]) == float(told[2]["sampling_kl"]) > 0.1


def test_a_bad_minibatch_is_seen_although_a_good_one_follows(small):
    """The last update's metrics alone would tell of nothing."""
    first = np.random.default_rng(0).permutation(3)[0]
    advantages = ADVANTAGES.copy()
    advantages[first] = np.nan
    _, outcome, _ = improve(small, advantages)
    assert [float(each["skipped"]) for each in outcome.updates] == [1.0, 0.0, 0.0]
    line = outcome.metrics()
    assert line["skipped"] == 1 and np.isfinite(line["loss"])
    # An update that was skipped does not count in the schedule either.
    assert line["learning_rate"] == pytest.approx(1e-2 * 2 / 9)
    faults = Faults(FaultConfig())
    for each in outcome.updates:
        faults.watch_update(0, each)
    assert faults.take() == {"faults/skipped_updates": 1}


@pytest.mark.parametrize("prefix", [(), PREFIX])
def test_work_is_what_a_mask_of_attention_counts(prefix):
    trajectories = make_trajectories()
    if prefix:
        for segment in (s for t in trajectories[:2] for s in t.segments[:1]):
            segment.token_ids[:3] = prefix
    config = PackingConfig(row_lengths=(48,), rows=2, max_microbatches=4)
    batch = pack(trajectories, ADVANTAGES, config, prefix=prefix)
    work = Work.sum([Work.of(batch), Work.of_prefix(batch)])
    tokens = pairs = 0
    for visible, uses in zip(
        batch.visible_to.reshape(-1, 48), batch.uses_prefix.reshape(-1, 48), strict=True
    ):
        for query in np.flatnonzero(visible):
            tokens += 1
            pairs += int(np.sum(visible[: query + 1] > query)) + len(prefix) * bool(uses[query])
    microbatches = int(batch.num_microbatches)
    assert (work.tokens, work.pairs) == (tokens, pairs)
    assert work.targets == int(batch.target_mask.sum())
    assert work.places == microbatches * 2 * 48
    assert work.prefix_tokens == microbatches * len(prefix)
    assert work.prefix_pairs == microbatches * len(prefix) * (len(prefix) + 1) / 2
    line = work.metrics()
    assert line["packed_tokens"] == tokens + microbatches * len(prefix)
    assert line["padding"] == pytest.approx(1 - tokens / work.places)


def test_mfu_is_told_where_the_peak_is_known_and_operations_elsewhere(tiny_decoder_config):
    work = Work(targets=5, tokens=90, places=100, pairs=400, prefix_tokens=10, prefix_pairs=55)
    needed = flops.update(tiny_decoder_config, 100, 455, 5)
    kinds = ["TPU v5 lite", "made up"]
    known, unknown = (
        throughput.update_rates(
            tiny_decoder_config, work, 2.0, [types.SimpleNamespace(device_kind=kind)] * 4
        )
        for kind in kinds
    )
    assert known["mfu"] == pytest.approx(needed / (2.0 * 4 * 197e12))
    assert unknown["update_flops_per_second"] == pytest.approx(needed / 2.0)
    assert known["updated_tokens_per_second"] == unknown["updated_tokens_per_second"] == 50.0
    assert "mfu" not in unknown
    assert throughput.update_rates(tiny_decoder_config, Work(), 2.0, []) == {}


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("TPU v5p", 459e12), ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("cpu", None),
    ],
)  # fmt: skip
def test_a_device_s_peak_is_found_by_the_name_that_it_has(kind, peak):
    assert chips.peak_flops(kind) == peak


def test_peak_memory_is_a_device_s_where_it_tells_and_the_process_s_elsewhere(monkeypatch):
    assert set(throughput.peak_memory()) == {"process_peak_bytes"}
    assert throughput.peak_memory()["process_peak_bytes"] > 50e6
    devices = [
        types.SimpleNamespace(memory_stats=lambda peak=peak: {"peak_bytes_in_use": peak})
        for peak in (10, 30, 20)
    ]
    monkeypatch.setattr(throughput.jax, "local_devices", lambda: devices)
    assert throughput.peak_memory() == {"device_peak_bytes": 30}


@pytest.mark.parametrize(
    "changes, told",
    [
        ({}, "by Pallas"),
        ({"attend_buckets": (256,)}, "of decoding by XLA, of prefill by XLA, of rows by Pallas"),
        ({"max_length": 1000}, "of decoding by XLA, of prefill by XLA, of rows by Pallas"),
        (
            {"prefill_buckets": (100, 256)},
            "of decoding by Pallas, of prefill by XLA, of rows by Pallas",
        ),
    ],
)
def test_the_banner_says_where_a_kernel_will_not_run(tiny_decoder_config, changes, told):
    model = dataclasses.replace(tiny_decoder_config, backend="tpu")
    engine = dataclasses.replace(
        EngineConfig(max_length=1024, attend_buckets=(), prefill_buckets=(128,)), **changes
    )
    assert banner.backend_path(model, engine) == f"tpu; attention {told}"
