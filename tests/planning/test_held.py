"""What the gate says lives on a chip, against what lives while a small job runs."""

import contextlib
import dataclasses
import gc

import jax
import pytest

from agemem_jax.models.config import DTYPES
from agemem_jax.planning.advice import advise
from agemem_jax.planning.ahead_of_time import Job, bytes_per_device
from agemem_jax.planning.chips import CHIPS
from agemem_jax.planning.footprint import Memory
from agemem_jax.rollout import decoding
from agemem_jax.training.trainer import Trainer
from tests.training.small_job import (
    PeakOfLiveBytes,
    live_bytes,
    small_config,
    with_larger_caches,
)


def job_of(config, prefix=0):
    return Job.of(config, jax.devices(), jax.local_devices(), prefix)


@pytest.fixture(scope="module")
def config():
    return with_larger_caches(small_config("tiny"))


@pytest.fixture(scope="module")
def lived(config, tmp_path_factory):
    """Bytes that were live: at most until the state was there, and when functions were called."""
    gc.collect()
    jax.clear_caches()
    before, found = live_bytes(), {}
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:

        def watch(owner, attribute, name):
            function = getattr(owner, attribute)

            def watched(*arguments, **options):
                gc.collect()
                found[name] = live_bytes() - before
                return function(*arguments, **options)

            patch.setattr(owner, attribute, watched)

        watch(decoding, "prefill", "prefill")
        watch(decoding, "decode_chunk", "decode")
        start = stack.enter_context(PeakOfLiveBytes())
        trainer = Trainer(config, tmp_path_factory.mktemp("run"))
        trainer.restore()
        start.look()
        found["start"] = start.peak - before
        watch(trainer.learner._grpo_update, "_arguments", "update")
        trainer._run_grpo(dataclasses.replace(trainer.phases[0], iterations=1))
    return found


def test_the_start_holds_what_is_counted(config, lived):
    assert lived["start"] == pytest.approx(bytes_per_device(job_of(config).at_start()), rel=0.01)


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_rollouts_hold_what_is_counted(config, lived, name):
    """The weights once, although they are an argument and a part of the state."""
    job = job_of(config)
    counted = job.held(name), job.rollout_weights(), job.cache()
    if name == "decode":
        counted = counted, job.decode_state()
    assert lived[name] == pytest.approx(bytes_per_device(counted), rel=0.01)


def test_an_update_holds_what_is_counted(config, lived):
    job = job_of(config)
    state = job.state().replace(reference=None)
    scores = job.batch(scored=True).ref_log_probs  # the rest of a batch is the host's until now
    counted = bytes_per_device((job.held("update"), state, scores))
    assert lived["update"] == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("chip, told", [("h100", True), ("v5e", False)])
def test_where_a_gpu_lacks_little_jax_may_take_more_of_it(config, chip, told):
    chip = CHIPS[chip]
    memory = Memory(chip.usable, 0, 0, 2**30, chip.usable)
    sentence = advise(job_of(config), {"decode": memory}, chip)
    assert sentence.startswith("decode needs ")
    assert ("XLA_CLIENT_MEM_FRACTION=0.92 in the environment" in sentence) == told
    assert advise(job_of(config), {"decode": dataclasses.replace(memory, held=0)}, chip) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_start_in_other_dtypes_has_one_array_on_its_way(config, dtype):
    model = dataclasses.replace(config.model, param_dtype=dtype)
    job = job_of(dataclasses.replace(config, model=model))
    state = bytes_per_device((job.state(), job.memories(), job.decode_state()))
    largest = max(x.size for x in jax.tree.leaves(job.state().trainable))
    expected = 0 if dtype == "float32" else 2 * largest
    assert bytes_per_device(job.at_start()) - state == expected


def test_minibatches_that_wait_for_their_update_hold_their_scores(config):
    one = dataclasses.replace(config, grpo=dataclasses.replace(config.grpo, minibatches=1))
    more = bytes_per_device(job_of(config).held("update"))
    fewer = bytes_per_device(job_of(one).held("update"))
    assert more - fewer == bytes_per_device(job_of(one).batch(scored=True).ref_log_probs)
