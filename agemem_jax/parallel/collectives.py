"""Collectives inside of `jax.shard_map`, in the form that TPUs run best."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

_RING = 4


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def all_gather(x: Array, axis_name: str, axis: int) -> Array:
    """The parts of all devices one behind the other along `axis`.

    Its gradient is a reduce-scatter.
    """
    return jax.lax.all_gather(x, axis_name, axis=axis, tiled=True)


def _gather_forward(x, axis_name, axis):
    return all_gather(x, axis_name, axis), None


def _gather_backward(axis_name, axis, _, gradient):
    return (reduce_scatter(gradient, axis_name, axis),)


all_gather.defvjp(_gather_forward, _gather_backward)


def reduce_scatter(x: Array, axis_name: str, axis: int) -> Array:
    """The sum over devices, of which each one keeps its part along `axis`.

    In stages of rings of four, from the far devices to the near ones. As many bytes travel as in
    one stage. XLA's TPU backend turns a reduce-scatter over a whole slice, or along another axis
    than the first, into an all-reduce, which moves twice as many.
    """
    size = jax.lax.axis_size(axis_name)
    stride, x = size, jnp.moveaxis(x, axis, 0)
    while stride > 1:
        ring = _RING if stride % _RING == 0 else stride
        stride //= ring
        groups = [
            [start + block + i * stride for i in range(ring)]
            for block in range(0, size, ring * stride)
            for start in range(stride)
        ]
        x = jax.lax.psum_scatter(x, axis_name, axis_index_groups=groups, tiled=True)
    return jnp.moveaxis(x, 0, axis)


def all_tokens(*arrays: Array, axes: tuple[str, ...]) -> tuple[Array, ...]:
    """[row, token, ...] with the tokens of all devices, where code is written per device."""
    mesh = jax.sharding.get_abstract_mesh()
    manual = tuple(axis for axis in axes if axis in mesh.manual_axes)
    if not manual:
        return arrays
    return tuple(jax.lax.all_gather(x, manual, axis=1, tiled=True) for x in arrays)
