"""What a job of one layer asks of a GPU that is not there."""

import dataclasses

import pytest

from agemem_jax.configs import tiny
from agemem_jax.planning import ahead_of_time, gpu_target
from agemem_jax.planning.ahead_of_time import Job
from agemem_jax.planning.chips import Topology
from agemem_jax.planning.footprint import measure
from agemem_jax.training.configuration import run_config

pytestmark = pytest.mark.skipif(
    not gpu_target.is_installed(),
    reason="JAX's plugin for CUDA compiles for GPUs and is not installed: "
    "pip install jax-cuda13-plugin jax-cuda13-pjrt",
)
CHUNK = 4


@pytest.fixture(scope="module")
def topology():
    return Topology.parse("h100:1")


@pytest.fixture(scope="module")
def job(topology):
    config = tiny.get_config()
    config.model.compute_dtype = config.engine.cache_dtype = "bfloat16"
    config.engine.chunk, config.engine.idle_slots = CHUNK, 0
    config.packing.rows = 1
    devices = ahead_of_time.devices(topology)
    whole = Job.of(run_config.build(config), devices, devices, 0)
    return dataclasses.replace(whole, model=dataclasses.replace(whole.model, num_layers=1))


@pytest.mark.parametrize("name", ["prefill", "decode", "update"])
def test_figures_of_a_function_fit_together(job, topology, name):
    found = measure(job, name, topology)
    assert found.memory.fits and found.memory.available < 80 * 2**30
    assert found.memory.temporaries == pytest.approx(found.program.temporaries, rel=0.2)
    assert found.seconds >= found.memory_seconds == found.costs.bytes / topology.chip.hbm
    assert found.network_seconds == 0 and not found.costs.collectives
    assert found.costs.padding == 0
    # Of one layer, attention and the table are counted whole; an update runs forward twice.
    assert 0.3 < found.costs.flops / found.model_flops < 3
    assert found.program.turn.kernels["dot"] >= 1
    # Counted for a token and for a microbatch.
    assert (found.program.turn == found.program.run) == (name == "prefill")
    assert found.compile_seconds == found.program.seconds > 0
