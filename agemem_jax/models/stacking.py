"""Weights in the order in which a few rows are multiplied fastest, for rollouts.

A layer's queries, keys and values become one matrix, and its gate and up-projection
another; all matrices become [output, input], which is what `kernels/product_cpu.py` reads, and
LoRA is merged. Where the backend runs alike layers in a loop, each weight is one array of all
layers, in the compute dtype, and matrices hold the scales of the norms before them. The result
computes the same, is for sampling only, and is a second copy of the weights.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from agemem_jax.models import backends, layer_loop
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights, in_compute_dtype, merge_lora
from agemem_jax.models.transformer import FOLDED_NORMS
from agemem_jax.parallel import rules

STACKS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_MATRICES = ("o_proj", "down_proj")


def stacked_config(config: DecoderConfig) -> DecoderConfig:
    """The configuration under which stacked weights run."""
    layered = backends.get(config.backend).loops_layers and config.has_alike_layers
    layered = layered and not config.num_experts and not rules.current_sizes()
    return dataclasses.replace(config, stacked=True, layered=layered, lora_rank=0)


def stack(config: DecoderConfig, weights: Weights) -> tuple[DecoderConfig, Weights]:
    """A configuration and weights that compute what the given ones do."""
    stacked = stacked_config(config)
    return stacked, _stack(config, weights, stacked.layered)


@functools.partial(jax.jit, static_argnames=("config", "layered"))
def _stack(config: DecoderConfig, weights: Weights, layered: bool) -> Weights:
    params = weights.params
    if weights.lora is not None:
        params = merge_lora(config, params, weights.lora)
    params = {name: _stack_tree(value) for name, value in params.items()}
    if layered:
        names = [f"layer_{index}" for index in range(config.num_layers)]
        params |= {name: _fold_norms(config, params[name]) for name in names}
        params = in_compute_dtype(config, params)
        layers = [params.pop(name) for name in names]
        params["layers"] = layer_loop.stack_layers(layers)
    return Weights(params)


def _fold_norms(config: DecoderConfig, layer: PyTree) -> PyTree:
    """The scales of the norms before attention and feed-forward inside of what follows them."""
    layer = dict(layer)
    for norm, (part, name) in FOLDED_NORMS.items():
        scale = layer.pop(norm)["scale"] + (1.0 if config.unit_offset_norms else 0.0)
        matrix = layer[part][name]
        kernel = matrix["kernel"].astype(jnp.float32) * scale
        layer[part] = {**layer[part], name: {**matrix, "kernel": kernel}}
    return layer


def _stack_tree(tree: PyTree) -> PyTree:
    """Works on the projections wherever they stand; a mixture of experts stays as it is."""
    if not isinstance(tree, dict):
        return tree
    tree = {name: _stack_tree(value) for name, value in tree.items()}
    for name, parts in STACKS.items():
        if all(isinstance(tree.get(part), dict) for part in parts):
            taken = [tree.pop(part) for part in parts]
            tree[name] = {"kernel": jnp.concatenate([part["kernel"].T for part in taken])}
            if "bias" in taken[0]:
                tree[name]["bias"] = jnp.concatenate([part["bias"] for part in taken])
    for name in _MATRICES:
        if isinstance(tree.get(name), dict):
            tree[name] = {**tree[name], "kernel": tree[name]["kernel"].T}
    return tree
