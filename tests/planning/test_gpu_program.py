"""What runs on a GPU, from what XLA writes of a program; and programs compiled without one."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from agemem_jax.planning import gpu_program, gpu_target
from agemem_jax.planning.chips import CHIPS, Topology

needs_plugin = pytest.mark.skipif(
    not gpu_target.is_installed(),
    reason="JAX's plugin for CUDA compiles for GPUs and is not installed: "
    "pip install jax-cuda13-plugin jax-cuda13-pjrt",
)
# A compiler without devices reads nothing back.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
TEXT = """HloModule jit_step

%product (a: f32[4,4]) -> f32[4,4] {
  %a = f32[4,4]{1,0} parameter(0)
  ROOT %dot.1 = f32[4,4]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%loop_body (s: f32[4,4]) -> f32[4,4] {
  %s = f32[4,4]{1,0} parameter(0)
  ROOT %fusion.2 = f32[4,4]{1,0} fusion(%s), kind=kCustom, calls=%product
}

ENTRY %main (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4]{1,0} parameter(0)
  %sort.3 = f32[4,4]{1,0} sort(%x), dimensions={1}, to_apply=%less
  %while.4 = f32[4,4]{1,0} while(%sort.3), condition=%c, body=%loop_body, \\
metadata={op_name="jit(step)/while"}, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %while.5 = f32[4,4]{1,0} while(%while.4), condition=%c, body=%loop_body
}
""".replace("\\\n", "")
THUNKS = """001: kCustomKernel [source       | next=002 (1)] sort_3 grid: [1, 1, 1]
002: kWhile [prev=001 (1) | next=006 (1)]
condition:
    003: kCustomKernel [source | sink] compare grid: [1, 1, 1]
  body:
    004: kAsyncStart    [source       | next=005 (1)] async_id=4
        005: kCopy [source | sink] kCopy
    006: kCustomKernel [source | sink] fusion_2 grid: [1, 1, 1]
    007: kAsyncDone     [source | sink] async_id=4
008: kWhile [prev=002 (1) | sink        ]
condition:
    009: kCustomKernel [source | sink] compare grid: [1, 1, 1]
  body:
    000: kCommandBuffer [source | sink]
        010: kCustomKernel [source | next=013 (1)] fusion_2 grid: [1, 1, 1]
        013: kConditional  [prev=010 (1) | sink]
          false_branch:
            011: kCopy [source | sink] kCopy
          true_branch:
            012: kCustomKernel [source | sink] fusion_2 grid: [1, 1, 1]
            014: kAllReduce [source | sink]
    015: kConditional  [source | sink]
      branch_0:
        016: kCopy [source | sink] kCopy
"""


def names(**numbers):
    return "".join(
        f'thunk_info {{\n profile_annotation: "{name}"\n thunk_id: {number}\n }}\n'
        for name, each in numbers.items()
        for number in each
    ).replace("_", ".").replace("profile.annotation", "profile_annotation").replace(
        "thunk.i", "thunk_i")  # fmt: skip


def test_kernels_launches_and_reads_are_added_up_over_loops_and_branches():
    told = names(sort_3=[1], while_4=[2], while_5=[8], fusion_2=[6, 10, 12])
    program = gpu_program.read(TEXT, THUNKS, told)
    known, by_data = program.loops
    # The host knows how often the first one runs: its condition is not computed.
    assert (known.name, known.depth, known.trips) == ("jit(step)/while", 0, 5)
    assert known.turn == gpu_program.Work({"copy": 1, "dot": 1}, launches=2, reads=0)
    # A command buffer is one launch, and nobody reads inside; the larger branch counts.
    assert by_data.trips is None
    kernels = {"all-reduce": 1, "copy": 1, "custom-kernel": 1, "dot": 2}
    assert by_data.turn == gpu_program.Work(kernels, launches=3, reads=2)
    assert program.turn == by_data.turn
    assert program.run.kernels["sort"] == 1
    assert program.run.total == 1 + 5 * 2 + 5
    assert (program.run.launches, program.run.reads) == (1 + 5 * 2 + 3, 2)


def test_a_card_is_described_by_its_own_memory_and_rates():
    text = gpu_target.config(CHIPS["h200"])
    assert f"device_memory_size: {CHIPS['h200'].memory}" in text
    assert "memory_bandwidth: 4800000000000" in text and "NVIDIA H200" in text


def test_without_the_plugin_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(gpu_target, "PLUGIN", "jax_plugins.no_such_plugin")
    with pytest.raises(ValueError, match=r"not installed: pip install jax-cuda13-plugin=="):
        gpu_target.devices(Topology.parse("h100:3"))


@needs_plugin
def test_a_loop_that_the_data_end_has_its_predicate_read_and_a_counted_one_has_not():
    (device,) = gpu_target.devices(Topology.parse("h100:1"))
    sharding = SingleDeviceSharding(device)

    def step(x, bound):
        x = jax.lax.fori_loop(0, 7, lambda _, y: jnp.sin(y @ y), x)
        return jax.lax.while_loop(lambda y: y[0, 0] < bound, lambda y: jnp.cos(y @ y), x)

    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in ((64, 64), ())
    ]
    compiled, program = gpu_program.compile(jax.jit(step).lower(*shapes))
    counted, ended = program.loops
    assert (counted.trips, counted.turn.reads) == (7, 0)
    assert (ended.trips, ended.turn.reads) == (None, 1)
    assert counted.turn.kernels["dot"] == ended.turn.kernels["dot"] == 1
    assert program.temporaries >= 64 * 64 * 2
    assert program.run.reads == 1 and program.seconds > 0


@needs_plugin
def test_eight_gpus_share_arrays():
    devices = gpu_target.devices(Topology.parse("h100:8"))
    mesh = Mesh(devices, ("fsdp",))
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    x = jax.ShapeDtypeStruct((64, 64), jnp.bfloat16, sharding=rows)
    compiled, program = gpu_program.compile(jax.jit(lambda x, w: jnp.sum(x @ w)).lower(x, x))
    assert compiled.memory_analysis().argument_size_in_bytes == 2 * 64 * 64 * 2 // 8
    assert program.run.kernels["all-gather"] + program.run.kernels["all-reduce"] == 2
