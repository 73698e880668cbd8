"""What does not divide is told in a sentence, by its name; what does is split by one table."""

import types

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.parallel import rules
from agemem_jax.parallel.mesh import AXES, MeshConfig, make_mesh, make_rollout_mesh

CONFIG = DecoderConfig(
    vocab_size=64, num_layers=1, width=24, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=48,
    tied_embeddings=False, qkv_bias=True, qk_norm=True, lora_rank=2,
)  # fmt: skip
EXPERTS = DecoderConfig(
    vocab_size=64, num_layers=1, width=24, num_heads=2, num_kv_heads=2, head_dim=8, ffn_width=48,
    num_experts=4, experts_per_token=2, expert_width=16,
)  # fmt: skip


def mesh(data, fsdp, tensor):
    return AbstractMesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def devices(processes, each):
    return [
        types.SimpleNamespace(process_index=process, id=process * each + index)
        for process in range(processes)
        for index in range(each)
    ]


@pytest.mark.parametrize("config", [CONFIG, EXPERTS], ids=["dense", "experts"])
def test_every_parameter_has_a_rule_for_each_axis_and_matrices_are_split_over_all(config):
    logical, abstract = decoder.logical_axes(config), decoder.abstract_params(config)
    placed = rules.shardings(mesh(1, 2, 2), logical, abstract)
    for path, sharding in jax.tree_util.tree_leaves_with_path(placed):
        name, used = jax.tree_util.keystr(path), set(sharding.spec) - {None}
        if "kernel" in name or "embedding" in name or "'output'" in name:
            assert used == {"fsdp", "tensor"}, name


def test_lora_matrices_are_split_as_what_they_belong_to():
    logical, abstract = decoder.lora_logical_axes(CONFIG), decoder.abstract_lora(CONFIG)
    placed = rules.shardings(mesh(1, 2, 2), logical, abstract)["layer_0"]["attention"]["q_proj"]
    assert placed["a"].spec == PartitionSpec("fsdp", None)
    assert placed["b"].spec == PartitionSpec(None, "tensor")


def test_a_parameter_that_does_not_divide_is_named_with_the_axis():
    logical, abstract = decoder.logical_axes(CONFIG), decoder.abstract_params(CONFIG)
    told = r"Parameter embedding has shape \(64, 24\), of which 24 does not divide by mesh.fsdp = 5"
    with pytest.raises(ValueError, match=told):
        rules.shardings(mesh(1, 5, 1), logical, abstract)


def test_heads_are_not_cut():
    rules.check_heads(mesh(1, 1, 2), 4, 2)
    with pytest.raises(ValueError, match="2 key and value heads, which do not divide .* of 4"):
        rules.check_heads(mesh(1, 1, 4), 4, 2)


def test_an_axis_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="No rule says which mesh axis splits 'colour'"):
        rules.parameter_spec(PartitionSpec("colour"))


def test_activations_that_do_not_divide_stay_whole():
    split = rules.activation_sharding(mesh(2, 2, 2), (8, 3, 4), "batch", None, "heads")
    assert split.spec == PartitionSpec(("data", "fsdp"), None, "tensor")
    assert rules.activation_sharding(mesh(2, 2, 2), (6, 3), "batch").spec == PartitionSpec(None)


@pytest.mark.parametrize(
    "config, told",
    [
        (MeshConfig(data=3, fsdp=2), "does not use up the 8 devices"),
        (MeshConfig(fsdp=3), "does not use up the 8 devices"),
        (MeshConfig(tensor=8), "mesh.tensor is 8, but process 0 has 4 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_the_job_is_refused(config, told):
    with pytest.raises(ValueError, match=told):
        make_mesh(config, devices(2, 4))


@pytest.mark.parametrize("name", ["data", "fsdp", "tensor", "rollout_tensor"])
def test_sizes_below_one_are_refused_by_their_name(name):
    with pytest.raises(ValueError, match=f"mesh.{name} is -2"):
        MeshConfig(**{name: -2})


def test_rollouts_take_the_tensor_axis_of_training_unless_told_otherwise():
    with pytest.raises(ValueError, match="mesh.rollout_tensor is 3, but process 1 has 4"):
        make_rollout_mesh(MeshConfig(tensor=2, rollout_tensor=3), devices(2, 4)[4:])


def test_a_single_device_needs_no_mesh():
    assert make_mesh(MeshConfig(), devices(1, 1)) is None
    assert make_rollout_mesh(MeshConfig(), devices(1, 1)) is None
