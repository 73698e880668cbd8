"""Alike layers as one loop, for training: large models, and where programs are to be small.

Compiled once instead of once per layer. On a mesh, the weights of a layer become whole when its
turn comes and not before, and its gradients are split before the next layer's are computed, so a
device holds one layer's at a time. The price is a copy of a device's own part of all weights, in
the compute dtype.

Where `tensor` splits nothing, the loop is written per device: rows and the prefix they share use
the same gathered weights, and their gradients are added up before they travel.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree

from agemem_jax.models import backends
from agemem_jax.models.attention import Packing
from agemem_jax.models.config import DecoderConfig
from agemem_jax.parallel import collectives, rules


@flax.struct.dataclass
class Prefix:
    """Tokens that rows share at their start.

    Attributes:
      x: embedded.
      keys, values: the parts of one layer's empty cache, with room for them.
    """

    x: Float[Array, "1 prefix width"]
    keys: PyTree
    values: PyTree


def loops(config: DecoderConfig) -> bool:
    """Whether layers are alike, and a loop costs nothing or is what the backend wants."""
    worth_it = config.remat or backends.get(config.backend).loops_layers
    # Dropout draws by the name of a layer.
    return worth_it and config.has_alike_layers and not config.lora_dropout


def stack_layers(layers: Sequence[PyTree]) -> PyTree:
    """All layers of each weight, matrices along the first axis and vectors along the last one.

    A layer's matrix is read in place then, and its vectors inside of what they are used for: XLA's
    GPU backend would copy a contiguous vector first.
    """
    return jax.tree.map(
        lambda *leaves: jnp.stack(leaves, axis=0 if leaves[0].ndim > 1 else -1), *layers
    )


def of_layer(layers: PyTree, index: Int[Array, ""]) -> PyTree:
    """The weights of one layer of what `stack_layers` has made."""

    def take(leaf):
        axis = 0 if leaf.ndim > 2 else -1
        return jax.lax.dynamic_index_in_dim(leaf, index, axis, keepdims=False)

    return jax.tree.map(take, layers)


def run(
    layer: nn.Module,
    variables: Sequence[PyTree],
    axes: PyTree,
    x: Float[Array, "row token width"],
    positions: Int[Array, "row token"],
    packing: Packing,
    prefix: Prefix | None,
) -> Float[Array, "row token width"]:
    """Packed rows through all layers, and beside them the prefix that they share.

    Args:
      layer: one of them, bound to no variables.
      variables: of every layer, in the dtype in which they are read.
      axes: their logical names, of one layer.
      x: embedded tokens of the rows.
      positions: of the rows' tokens.
      packing: how rows attend.
      prefix: None where there is none.
    """
    sizes = rules.current_sizes()
    shards = math.prod(sizes.get(axis, 1) for axis in rules.BATCH)
    by_device = shards > 1 and sizes["tensor"] == 1 and len(x) % shards == 0
    specs = jax.tree.map(rules.parameter_spec, axes, is_leaf=_is_spec)

    def through(stacked, x, positions, packing, prefix, places):
        def step(carry, own):
            x, before = carry
            own = jax.tree.map(_whole, specs, own, is_leaf=_is_spec) if by_device else own
            shared = None
            if before is not None:
                cache = prefix.keys, prefix.values
                before, (keys, values) = layer.apply(own, before, places, cache, None, None)
                shared = keys[0], values[0]
            x, _ = layer.apply(own, x, positions, None, packing, shared)
            return (x, before), None

        if layer.config.remat:
            # Nothing outside of the loop's body could be merged with what it computes again.
            step = jax.checkpoint(step, prevent_cse=False)
        before = None if prefix is None else prefix.x
        return jax.lax.scan(step, (x, before), stacked)[0][0]

    places = None
    if prefix is not None:  # so many tokens that devices share them evenly
        prefix = prefix.replace(
            x=rules.split_tokens(
                jnp.pad(prefix.x, ((0, 0), (0, -prefix.x.shape[1] % shards), (0, 0)))
            )
        )
        places = jnp.arange(prefix.x.shape[1])[None]  # padding lies past the cache
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
    if by_device:
        rows, tokens, nowhere = P(rules.BATCH), P(None, rules.BATCH), P()
        of_layers = jax.tree.map(lambda spec: P(None, *spec), specs, is_leaf=_is_spec)
        of_prefix = None if prefix is None else Prefix(tokens, nowhere, nowhere)
        through = jax.shard_map(
            through, in_specs=(of_layers, rows, rows, rows, of_prefix, tokens), out_specs=rows,
            check_vma=False,
        )  # fmt: skip
    return through(stacked, rules.split_tokens(x), positions, packing, prefix, places)


def _is_spec(x) -> bool:
    return isinstance(x, P)


def _whole(spec: P, x: Array) -> Array:
    """A device's part of a layer's parameter, and the others'."""
    return collectives.all_gather(x, "fsdp", tuple(spec).index("fsdp")) if "fsdp" in spec else x
