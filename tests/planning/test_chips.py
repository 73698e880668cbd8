"""Topologies by name, and how fast their chips are reached."""

import pytest

from agemem_jax.planning.chips import CHIPS, Topology


def test_topologies_are_parsed():
    pod = Topology.parse("v5e:4x4")
    assert pod.chips == 16 and pod.name == "v5e:4x4" and pod.host.chips == 4
    assert Topology.parse("v5p:2x2x2").chips == 8
    cluster = Topology.parse("h100:2x8")
    assert cluster.chips == 16 and cluster.name == "h100:2x8" and cluster.host.name == "h100:8"
    assert Topology.parse("h200:1").host.name == "h200:1"


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("v5e", "must be a chip"),
        ("v9:2x2", "must be a chip .v5e, v5p, v6e, h100, h200."),
        ("v5e:2x", "must be a chip"),
        ("v5e:4x4x4", "joined in 2 dimensions, as in v5e:2x2"),
        ("v5e:0x4", "joined in 2 dimensions"),
        ("h100:0", "1 to 8 of h100 in a machine, as in h100:8"),
        ("h100:16", "two such machines are h100:2x8"),
        ("h200:2x2x2", "1 to 8 of h200 in a machine"),
    ],
)
def test_wrong_topologies_are_refused_in_a_sentence(name, sentence):
    with pytest.raises(ValueError, match=f"topology is {name!r}.*{sentence}"):
        Topology.parse(name)


def test_a_ring_has_two_links_for_each_dimension_and_a_grid_one():
    link = CHIPS["v5e"].link
    assert Topology.parse("v5e:4x4").bandwidth == 2 * link
    assert Topology.parse("v5e:16x16").bandwidth == 4 * link
    assert Topology.parse("v5p:4x4x4").bandwidth == 6 * CHIPS["v5p"].link


@pytest.mark.parametrize(
    "name, rate",
    [
        ("h100:1", 0.0),
        ("h100:2", 450e9),
        ("h200:8", 450e9),
        ("h100:2x8", 400e9),  # eight adapters bring what each GPU gets
        ("h100:4x1", 50e9),
    ],
)
def test_gpus_are_reached_by_links_in_a_machine_and_by_adapters_between(name, rate):
    assert Topology.parse(name).bandwidth == rate


def test_of_a_gpu_jax_takes_the_part_that_the_environment_says(monkeypatch):
    tpu, gpu = CHIPS["v5e"], CHIPS["h200"]
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
    assert gpu.usable == int(0.75 * gpu.memory)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.9")
    assert gpu.usable == int(0.9 * gpu.memory) and tpu.usable == tpu.memory
