"""Weights in the order in which a CPU multiplies a few rows fastest, for rollouts.

A layer's queries, keys and values become one matrix, and its gate and up-projection
another; all matrices become [output, input], which is what `kernels/product_cpu.py` reads, and
LoRA is merged. The result computes the same, is for sampling only, and is a second copy of the
weights.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights, merge_lora

STACKS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_MATRICES = ("o_proj", "down_proj")


def stack(config: DecoderConfig, weights: Weights) -> tuple[DecoderConfig, Weights]:
    """A configuration and weights that compute what the given ones do."""
    stacked = dataclasses.replace(config, stacked=True, lora_rank=0)
    return stacked, _stack(config, weights)


@functools.partial(jax.jit, static_argnames=("config",))
def _stack(config: DecoderConfig, weights: Weights) -> Weights:
    params = weights.params
    if weights.lora is not None:
        params = merge_lora(config, params, weights.lora)
    return Weights({name: _stack_tree(value) for name, value in params.items()})


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
