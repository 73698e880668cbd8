"""Attention along the paths of a forest on CPUs, by forest_cpu.cc.

XLA's CPU backend computes products of blocks on one thread each, and writes down what lies between
them. Here it stays in the processor's caches, and is looked at by 16 keys, not by 64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from agemem_jax.models.kernels import compiled
from agemem_jax.models.kernels.forest import Tiling

BLOCK = compiled.LANES  # the least number of tokens that is looked at together


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
    tiling: Tiling,
    query: Float[Array, "row head token head_dim"],
    keys: Float[Array, "row kv_head length head_dim"],
    values: Float[Array, "row kv_head length head_dim"],
    q_info: Int[Array, "row token 4"],
    k_info: Int[Array, "row 2 length"],
) -> Float[Array, "row head token head_dim"]:
    """See `forest_attention`; lengths must divide into blocks, and heads into vectors.

    What is not in float32 is computed in it.

    Raises:
      ValueError: the kernel cannot be compiled, or something does not divide.
    """
    return _forward(tiling, query, keys, values, q_info, k_info)[0]


def _forward(tiling: Tiling, query, keys, values, q_info, k_info):
    arguments = (*_in_float32(query, keys, values), q_info, k_info)
    results = _like(arguments[0]), jax.ShapeDtypeStruct(query.shape[:3], jnp.float32)
    mixed, log_sum = _call("agemem_forest_forward", results, tiling, *arguments)
    mixed = mixed.astype(query.dtype)
    return mixed, (query, keys, values, q_info, k_info, mixed, log_sum)


def _backward(tiling: Tiling, saved, grad):
    query, keys, values, q_info, k_info, mixed, log_sum = saved
    arguments = (*_in_float32(query, keys, values), q_info, k_info)
    mixed, grad = _in_float32(mixed, grad)
    rows, heads = query.shape[:2]
    of_heads = jax.ShapeDtypeStruct((rows, heads, *keys.shape[2:]), jnp.float32)
    results = _like(grad), of_heads, of_heads
    q_grad, *kv_grads = _call(
        "agemem_forest_backward", results, tiling, *arguments, mixed, log_sum, grad
    )
    kv_heads, group = keys.shape[1], heads // keys.shape[1]
    k_grad, v_grad = (
        jnp.sum(x.reshape(rows, kv_heads, group, *x.shape[2:]), axis=2) for x in kv_grads
    )
    return (
        q_grad.astype(query.dtype), k_grad.astype(keys.dtype), v_grad.astype(values.dtype),
        None, None,
    )  # fmt: skip


attend.defvjp(_forward, _backward)


def _in_float32(*arrays):
    return tuple(x.astype(jnp.float32) for x in arrays)


def _like(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _call(target: str, results, tiling: Tiling, *arguments):
    query, keys = arguments[:2]
    compiled.check_heads(query.shape[-1])
    for name, length in (("queries", query.shape[2]), ("keys", keys.shape[2])):
        if length % BLOCK:
            raise ValueError(f"Rows of {length} {name} do not divide into blocks of {BLOCK}.")
    return compiled.call(target, results)(
        *arguments, scale=np.float32(tiling.scale), softcap=np.float32(tiling.softcap),
        window=np.int64(tiling.window),
    )  # fmt: skip
