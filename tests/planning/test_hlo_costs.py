"""What a compiled program's text says it costs: products, collectives, and loops around them."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from agemem_jax.models import decoder, flops
from agemem_jax.models.config import DecoderConfig
from agemem_jax.planning.hlo_costs import costs, group_size
from agemem_jax.planning.hlo_text import Array

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PROGRAM = """
import json
import jax, jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec as P
from agemem_jax.parallel import collectives
from agemem_jax.planning.hlo_costs import costs

mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))

def told(function, out, *shapes):
    with jax.set_mesh(mesh):
        mapped = jax.shard_map(function, in_specs=P("fsdp"), out_specs=out, check_vma=False)
        found = costs(jax.jit(mapped).lower(*(jnp.zeros(s) for s in shapes)).compile().as_text())
    return {k: [c.count, c.bytes] for k, c in found.collectives.items()}, found.flops

def looped(x):
    step = lambda i, y: jax.lax.psum(y, "fsdp") * 0.5
    return jax.lax.fori_loop(0, 5, step, x)

results = {
    "sum": told(lambda x: jax.lax.psum(x, "fsdp"), P(), (8, 100)),
    "looped": told(looped, P("fsdp"), (8, 100)),
    "gather": told(lambda x: jax.lax.all_gather(x, "fsdp", tiled=True), P(), (8, 100)),
    "product": told(lambda x: x @ x.T, P("fsdp"), (128, 32)),
}

def sum_of_parts(x):
    return collectives.reduce_scatter(x * (1.0 + jax.lax.axis_index("fsdp")), "fsdp", 1)

def gradient(x):
    scale = jnp.arange(32.0)
    return jax.grad(lambda x: jnp.sum(collectives.all_gather(x, "fsdp", 0) * scale[:, None]))(x)

with jax.set_mesh(mesh):
    scattered = jax.jit(jax.shard_map(
        sum_of_parts, in_specs=P(), out_specs=P(None, "fsdp"), check_vma=False
    ))(jnp.arange(64.0).reshape(2, 32))
    gathered = jax.jit(jax.shard_map(
        gradient, in_specs=P("fsdp"), out_specs=P("fsdp"), check_vma=False
    ))(jnp.ones((32, 3)))
results["scattered"] = scattered.tolist()
results["gathered"] = gathered.tolist()
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def told():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "8",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_collectives_are_counted_with_the_bytes_that_reach_a_device(told):
    row = 100 * 4
    assert told["sum"][0] == {"all-reduce": [1, pytest.approx(2 * row * 7 / 8)]}
    assert told["gather"][0] == {"all-gather": [1, pytest.approx(8 * row * 7 / 8)]}


def test_what_stands_in_a_loop_counts_as_often_as_the_loop_runs(told):
    assert told["looped"][0] == {"all-reduce": [5, pytest.approx(5 * 2 * 400 * 7 / 8)]}


def test_products_count_two_operations_for_each_multiply_add(told):
    assert told["product"][1] == 2 * 16 * 16 * 32


def test_a_reduce_scatter_in_stages_gives_each_device_its_part_of_the_sum(told):
    expected = [[36.0 * (32 * row + column) for column in range(32)] for row in range(2)]
    assert told["scattered"] == expected


def test_the_gradient_of_a_gather_is_the_sum_over_devices(told):
    assert told["gathered"] == [[8.0 * row] * 3 for row in range(32)]


@pytest.mark.parametrize(
    "text, size",
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dims", 4),
        ("replica_groups=[2,8]<=[16], dims", 8),
        ("no groups", 0),
    ],
)
def test_the_size_of_a_group_is_read_in_every_notation(text, size):
    assert group_size(text) == size


def test_a_text_without_a_loop_count_counts_the_body_once():
    text = """HloModule m

%body (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %r = f32[4]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

%condition (q: f32[4]) -> pred[] {
  %q = f32[4]{0} parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  ROOT %w = f32[4]{0} while(%x), condition=%condition, body=%body
}
"""
    found = costs(text).collectives["all-reduce"]
    assert (found.count, found.bytes) == (1, 16.0)


def test_of_a_cache_that_is_updated_in_place_only_the_new_rows_are_moved():
    text = """HloModule jit_step

%set (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %b = f32[] parameter(1)
}

%write (cache: f32[1000,8], places: s32[2,1], rows: f32[2,8]) -> f32[1000,8] {
  %cache = f32[1000,8]{1,0} parameter(0)
  %places = s32[2,1]{1,0} parameter(1)
  %rows = f32[2,8]{1,0} parameter(2)
  ROOT %scatter = f32[1000,8]{1,0} scatter(%cache, %places, %rows), to_apply=%set
}

ENTRY %main (cache: f32[1000,8], places: s32[2,1], rows: f32[2,8]) -> f32[1000,8] {
  %cache = f32[1000,8]{1,0} parameter(0)
  %places = s32[2,1]{1,0} parameter(1)
  %rows = f32[2,8]{1,0} parameter(2)
  ROOT %written = f32[1000,8]{1,0} fusion(%cache, %places, %rows), kind=kCustom, calls=%write
}
"""
    rows, places = 2 * 8 * 4, 2 * 4
    assert costs(text).bytes == 2 * rows + places


def test_of_an_array_whose_rows_are_read_and_replaced_only_these_are_moved():
    text = """HloModule jit_step

%replace (all: f32[1000,8], place: s32[]) -> f32[1000,8] {
  %all = f32[1000,8]{1,0} parameter(0)
  %place = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,8]{1,0} dynamic-slice(%all, %place, %zero), dynamic_slice_sizes={1,8}
  %twice = f32[1,8]{1,0} add(%row, %row)
  ROOT %new = f32[1000,8]{1,0} dynamic-update-slice(%all, %twice, %place, %zero)
}

ENTRY %main (all: f32[1000,8], place: s32[]) -> f32[1000,8] {
  %all = f32[1000,8]{1,0} parameter(0)
  %place = s32[] parameter(1)
  ROOT %new = f32[1000,8]{1,0} fusion(%all, %place), kind=kLoop, calls=%replace
}
"""
    row, place = 8 * 4, 4
    assert costs(text).bytes == 2 * row + place


def test_what_a_kernel_finds_on_the_chip_already_is_not_read_again():
    text = """HloModule jit_step

ENTRY %main (keys: bf16[1000,128]) -> bf16[8,128] {
  %keys = bf16[1000,128]{1,0} parameter(0)
  %near = bf16[1000,128]{1,0:S(1)} copy(%keys)
  ROOT %mixed = bf16[8,128]{1,0} custom-call(%near), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"10","bytes_accessed":"258048"}}}
}
""".replace("\\\n", "")
    keys, mixed = 1000 * 128 * 2, 8 * 128 * 2
    assert costs(text).bytes == keys + mixed
    far = text.replace("custom-call(%near)", "custom-call(%keys)")
    assert costs(far).bytes == 2 * keys + mixed


TILED = """HloModule jit_step

ENTRY %main (sums: f32[16,512,1], near: f32[16,512,1]) -> f32[16,512,1] {
  %sums = f32[16,512,1]{LAYOUT} parameter(0)
  %near = f32[16,512,1]{2,1,0:T(8,128)S(1)} parameter(1)
  ROOT %total = f32[16,512,1]{LAYOUT} add(%sums, %near)
}
"""


@pytest.mark.parametrize(
    "layout, elements",
    [
        ("2,1,0", 16 * 512),
        ("2,1,0:T(8,128)", 16 * 512 * 128),  # a row of 128 for every number
        ("1,0,2:T(8,128)", 16 * 512),  # tokens are the fastest axis, which tiles divide
    ],
)
def test_arrays_move_in_whole_tiles_of_their_fastest_axes(layout, elements):
    found = costs(TILED.replace("LAYOUT", layout))
    assert found.bytes == 2 * 4 * elements
    assert found.padding == 2 * 4 * (elements - 16 * 512)


@pytest.mark.parametrize(
    "dtype, sizes, layout, size",
    [
        ("f32", "3,4", "{1,0:T(8,128)}", 8 * 128 * 4),
        ("f32", "4,3", "{0,1:T(4,128)}", 4 * 128 * 4),  # three rows of four
        ("bf16", "17,130", "{1,0:T(8,128)(2,1)}", 24 * 256 * 2),
        ("bf16", "17,130", "{1,0:T(16,128)(2,1)}", 32 * 256 * 2),
        ("s8", "5,33,128", "{2,1,0:T(32,128)(4,1)S(1)}", 5 * 64 * 128),
        ("f32", "300", "{0:T(256)}", 512 * 4),
        ("bf16", "3", "{0:T(1)(2)}", 3 * 2 * 2),  # each in a pair of its own
        ("s32", "", "{:T(128)}", 128 * 4),
        ("f32", "17,130", "{1,0}", 17 * 130 * 4),
        ("f32", "17,130", "", 17 * 130 * 4),
    ],
)
def test_tiles_are_read_in_every_notation(dtype, sizes, layout, size):
    assert Array.parse(dtype, sizes, layout).padded == size


def test_a_kernel_moves_the_padding_of_its_arrays_beside_what_it_says():
    text = """HloModule jit_step

ENTRY %main (info: s32[512,4]) -> bf16[8,128] {
  %info = s32[512,4]{1,0:T(8,128)} parameter(0)
  ROOT %mixed = bf16[8,128]{1,0:T(8,128)(2,1)} custom-call(%info), \
custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"10","bytes_accessed":"10240"}}}
}
""".replace("\\\n", "")
    found = costs(text)
    assert found.padding == 512 * (128 - 4) * 4
    assert found.bytes == 10240 + found.padding


def test_a_product_of_a_gpu_library_counts_without_the_room_that_it_works_in():
    text = """HloModule jit_step

ENTRY %main (left: bf16[2,24,64], right: bf16[2,64,32]) -> bf16[2,24,32] {
  %left = bf16[2,24,64]{2,1,0} parameter(0)
  %right = bf16[2,64,32]{2,1,0} parameter(1)
  %both = (bf16[2,24,32]{2,1,0}, s8[4194304]{0}) custom-call(%left, %right), \
custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"]}}}
  ROOT %product = bf16[2,24,32]{2,1,0} get-tuple-element(%both), index=0
}
""".replace("\\\n", "")
    found = costs(text)
    assert found.flops == 2 * 2 * 24 * 32 * 64
    assert found.bytes == 2 * (2 * 24 * 64 + 2 * 64 * 32 + 2 * 24 * 32)


def test_operations_of_the_model_follow_from_its_parameters():
    config = DecoderConfig(
        vocab_size=100, num_layers=3, width=32, num_heads=4, num_kv_heads=2, head_dim=8,
        ffn_width=64,
    )  # fmt: skip
    kernels = sum(
        leaf.size for leaf in jax.tree.leaves(decoder.abstract_params(config)) if leaf.ndim == 2
    )
    layers = kernels - 100 * 32
    assert flops.layer_parameters(config) == layers
    assert flops.forward(config, 10, 0, 0) == 2 * 10 * layers
    assert flops.forward(config, 0, 5, 0) == 2 * 5 * 3 * 2 * 4 * 8
    assert flops.update(config, 10, 5, 2) == 3 * flops.forward(config, 10, 5, 2)
    assert flops.causal_pairs(3, 2) == 3 * 2 + 6
