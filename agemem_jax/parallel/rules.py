"""One table from logical axis names to mesh axes, and what follows from it.

Parameters are declared with logical names; here stands which mesh axis splits which name.
Inside of compiled functions `constrain` and `per_shard` read the mesh that the function is
compiled for, and do nothing where there is none.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

BATCH = ("data", "fsdp")  # rows of a batch, slots, memories

# Of parameters. What is not listed is on every device.
RULES: dict[str, tuple[str, ...]] = {
    "embed": ("fsdp",),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "expert": (),
    "lora_rank": (),
    "head_dim": (),
}
# Of activations.
_ACTIVATION_RULES: dict[str, tuple[str, ...]] = {
    "batch": BATCH,
    "data_batch": ("data",),
    "fsdp_width": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}


def parameter_spec(names: PartitionSpec) -> PartitionSpec:
    """Mesh axes of a parameter from its logical names.

    Raises:
      ValueError: a name is not in the table, or two names claim one mesh axis.
    """
    axes, used = [], set()
    for name in names:
        if name is not None and name not in RULES:
            raise ValueError(f"No rule says which mesh axis splits {name!r}: add it to RULES.")
        taken = RULES[name] if name is not None else ()
        if used & set(taken):
            raise ValueError(f"Two axes of a parameter ({names}) are split over {taken}.")
        used |= set(taken)
        axes.append(taken[0] if len(taken) == 1 else taken or None)
    return PartitionSpec(*axes)


def shardings(mesh: Mesh, logical: PyTree, abstract: PyTree) -> PyTree:
    """Where every parameter goes.

    Args:
      mesh: of training or of rollouts.
      logical: `PartitionSpec`s of logical names (see `decoder.logical_axes`).
      abstract: the parameters, or their shapes.

    Raises:
      ValueError: a parameter does not divide; the sentence says which, and by which axis.
    """

    def one(path, names, array):
        spec = parameter_spec(names)
        for size, axis in zip(array.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                name = "/".join(str(getattr(key, "key", key)) for key in path)
                raise ValueError(
                    f"Parameter {name} has shape {tuple(array.shape)}, of which {size} does not "
                    f"divide by mesh.{axis} = {mesh.shape[axis]}; choose a divisor of {size}."
                )
        return NamedSharding(mesh, spec)

    is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    return jax.tree_util.tree_map_with_path(one, logical, abstract, is_leaf=is_spec)


def check_heads(mesh: Mesh | None, num_heads: int, num_kv_heads: int) -> None:
    """Heads are split whole.

    Raises:
      ValueError: they do not divide.
    """
    for name, count in (("heads", num_heads), ("key and value heads", num_kv_heads)):
        if mesh is not None and count % mesh.shape["tensor"]:
            raise ValueError(
                f"The backbone has {count} {name}, which do not divide by a tensor axis of "
                f"{mesh.shape['tensor']} (mesh.tensor or mesh.rollout_tensor); choose a divisor "
                f"of {count}."
            )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def current_sizes() -> dict[str, int]:
    """Sizes of the axes of the mesh that is compiled for; empty without one, and per device."""
    mesh = jax.sharding.get_abstract_mesh()
    return {} if mesh.empty or mesh.manual_axes else dict(mesh.shape)


def activation_sharding(mesh: Mesh, shape: Sequence[int], *names: str | None) -> NamedSharding:
    """Where an activation, or a cache, goes: logical names for its first axes."""
    return NamedSharding(mesh, _activation_spec(dict(mesh.shape), shape, names))


def look_up(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of a table [vocab, width] whose vocabulary `tensor` splits, for ids [row, token].

    Every device looks up what lies in its part, and they add up: the table stays where it is.
    """
    sizes = current_sizes()

    def own(part, ids):
        places = ids - jax.lax.axis_index("tensor") * len(part)
        inside = (places >= 0) & (places < len(part))
        found = jnp.where(inside[..., None], part[jnp.clip(places, 0, len(part) - 1)], 0)
        return jax.lax.psum(found, "tensor")

    rows = _activation_spec(sizes, ids.shape, ("batch", None))
    specs = (PartitionSpec("tensor", None), rows)
    return jax.shard_map(
        own, in_specs=specs, out_specs=PartitionSpec(*rows, None), check_vma=False
    )(table, ids)


def _activation_spec(sizes: Mapping[str, int], shape, names) -> PartitionSpec:
    """Mesh axes of an activation; one that does not divide is left whole."""
    axes = []
    for size, name in zip(shape, names, strict=False):
        taken = tuple(axis for axis in _ACTIVATION_RULES.get(name, ()) if sizes.get(axis, 1) > 1)
        if not taken or size % math.prod(sizes[axis] for axis in taken):
            axes.append(None)
        else:
            axes.append(taken[0] if len(taken) == 1 else taken)
    return PartitionSpec(*axes)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Splits an activation as its logical names say."""
    sizes = current_sizes()
    if not sizes:
        return x
    return jax.lax.with_sharding_constraint(x, _activation_spec(sizes, x.shape, names))


def split_tokens(x: jax.Array, name: str | None = None) -> jax.Array:
    """Splits [row, token, ...] by rows; where rows do not divide, as a single one, by tokens.

    Args:
      x: what is computed of each token by itself.
      name: of the last axis.
    """
    sizes = current_sizes()
    if not sizes:
        return x
    whole = x.shape[0] % math.prod(sizes.get(axis, 1) for axis in BATCH)
    return constrain(x, *((None, "batch", name) if whole else ("batch", None, name)))


def gather(parameter: jax.Array, names: Sequence[str | None]) -> jax.Array:
    """A parameter as products read it: split by `tensor`, whole over `fsdp`.

    Said where a parameter has its compute dtype already, so that this is what travels. Its
    gradient is split as the parameter is, which makes a reduce-scatter of the sum over devices.
    """
    return _gather(tuple(names), parameter) if current_sizes() else parameter


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(names, parameter):
    split = [name if name in _ACTIVATION_RULES else None for name in names]
    return constrain(parameter, *split)


def _split_gradient(names, _, gradient):
    return (jax.lax.with_sharding_constraint(gradient, parameter_spec(PartitionSpec(*names))),)


_gather.defvjp(lambda names, parameter: (_gather(names, parameter), None), _split_gradient)


def per_shard(
    function: Callable[..., PyTree],
    inputs: Sequence[Sequence[str | None]],
    outputs: Sequence[Sequence[str | None]],
    *arguments: PyTree,
) -> tuple[PyTree, ...]:
    """Runs `function` on each device's own part of the arguments.

    Args:
      function: gives a tuple of arrays or pytrees, and computes nothing across what is split.
      inputs: logical names of the axes, for each argument; all arrays in it have the same.
      outputs: likewise for each result.
      *arguments: arrays or pytrees of arrays.
    """
    sizes = current_sizes()
    if not sizes:
        return function(*arguments)

    def specs(names, trees):
        return tuple(
            jax.tree.map(lambda x, each=each: _activation_spec(sizes, x.shape, each), tree)
            for each, tree in zip(names, trees, strict=True)
        )

    out_specs = specs(outputs, jax.eval_shape(function, *arguments))
    mapped = jax.shard_map(
        function, in_specs=specs(inputs, arguments), out_specs=out_specs, check_vma=False
    )
    return mapped(*arguments)
