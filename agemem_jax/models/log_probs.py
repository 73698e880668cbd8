"""Log-probabilities of chosen tokens, without an array of all tokens' logits.

On a mesh the vocabulary is split over `tensor` and `fsdp`, and hidden states travel to it
instead of the whole table to them: a device computes the logits of its part of the vocabulary for
the rows of all devices of its `fsdp` group, and normalisers are added up. The gradient of
the table then needs no sum but the one over `data`.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.parallel import rules

_EXCHANGED = "fsdp"  # splits the table's width, and here its rows
_VOCABULARY = ("tensor", _EXCHANGED)


def token_log_probs(
    config: DecoderConfig,
    weights: Weights,
    hidden: Float[Array, "*row target width"],
    targets: Int[Array, "*row target"],
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> tuple[Float[Array, "*row target"], Float[Array, "*row target"]]:
    """Log-probabilities of `targets`, and entropies, in float32.

    Works through `chunk` targets of each device's rows at a time, forwards and backwards, so
    that no [target, vocab] array of all targets exists. No gradient flows through entropies.
    """
    shape, count = targets.shape, targets.shape[-1]
    hidden = hidden.reshape(-1, count, hidden.shape[-1])
    targets = targets.reshape(-1, count)
    rows, shards = len(targets), _shards(len(targets))
    chunk = max(1, min(chunk * shards // rows, count))
    pad = -count % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
    hidden = hidden.reshape(rows, -1, chunk, hidden.shape[-1]).swapaxes(0, 1)
    targets = jnp.pad(targets, ((0, 0), (0, pad))).reshape(rows, -1, chunk).swapaxes(0, 1)
    name = "embedding" if config.tied_embeddings else "output"
    scales = None if weights.scales is None else {name: weights.scales[name]}
    table = Weights({name: weights.params[name]}, scales=scales)
    results = _chunked_log_probs(config, temperature, table, hidden, targets)
    log_probs, entropy = (x.swapaxes(0, 1).reshape(rows, -1)[:, :count] for x in results)
    return log_probs.reshape(shape), entropy.reshape(shape)


def _shards(rows: int) -> int:
    """Into how many parts the rows are split."""
    sizes, count = rules.current_sizes(), 1
    for axis in rules.BATCH:
        count *= sizes.get(axis, 1)
    return count if rows % count == 0 else 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked_log_probs(config, temperature, table, hidden, targets):
    return _log_probs_forward(config, temperature, table, hidden, targets)[0]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Which mesh axes split what. Without a mesh all are empty, and nothing is exchanged.

    Attributes:
      vocabulary: of the table's rows while logits are computed. Outside of that, `fsdp` splits
        its width.
      batch: of rows of hidden states.
      is_mapped: whether there is a mesh.
    """

    vocabulary: tuple[str, ...]
    batch: tuple[str, ...]
    is_mapped: bool

    @classmethod
    def of(cls, rows: int, vocabulary: int) -> "_Layout":
        """For so many rows of hidden states and of the table."""
        sizes = rules.current_sizes()
        v, b = (
            tuple(a for a in axes if sizes.get(a, 1) > 1) for axes in (_VOCABULARY, rules.BATCH)
        )
        return cls(
            v if vocabulary % math.prod(sizes[a] for a in v) == 0 else (),
            b if _shards(rows) > 1 else (),
            bool(sizes),
        )

    @property
    def exchanged(self) -> tuple[str, ...]:
        """Axes along which devices compute each other's rows."""
        return tuple(a for a in self.vocabulary if a in self.batch)

    def map(self, function, inputs: str, outputs: str):
        """`function` on each device's part; "t" stands for the table, "r" for [chunk, row]."""
        if not self.is_mapped:
            return function
        of_table = tuple(
            axis if axis in self.vocabulary else None for axis in ("tensor", _EXCHANGED)
        )
        specs = {"t": PartitionSpec(*of_table), "r": PartitionSpec(None, self.batch)}
        ins, outs = (tuple(specs[each] for each in names) for names in (inputs, outputs))
        return jax.shard_map(function, in_specs=ins, out_specs=outs, check_vma=False)

    def by_vocabulary(self, table: Weights, dtype) -> Weights:
        """Whole rows of the table, for a part of the vocabulary."""

        def turn(x):
            return jax.lax.all_to_all(x, _EXCHANGED, split_axis=0, concat_axis=1, tiled=True)

        table = table.replace(params=jax.tree.map(lambda x: x.astype(dtype), table.params))
        return jax.tree.map(turn, table) if _EXCHANGED in self.vocabulary else table

    def by_width(self, table: Weights) -> Weights:
        """The inverse of `by_vocabulary`."""

        def turn(x):
            return jax.lax.all_to_all(x, _EXCHANGED, split_axis=1, concat_axis=0, tiled=True)

        return jax.tree.map(turn, table) if _EXCHANGED in self.vocabulary else table

    def collect(self, x):
        """Targets of all devices that this one computes for, one behind the other; their rows."""
        for axis in reversed(self.exchanged):
            x = jax.lax.all_gather(x, axis, axis=0, tiled=True)
        return x.reshape(-1, *x.shape[2:]), x.shape[0]

    def own(self, x):
        """This device's rows of what was collected."""
        for axis in self.exchanged:
            size = x.shape[0] // jax.lax.axis_size(axis)
            x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * size, size)
        return x

    def add_up(self, x):
        """Sum over the parts of the vocabulary; of collected rows each device keeps its own."""
        x = _psum(x, tuple(a for a in self.vocabulary if a not in self.exchanged))
        for axis in self.exchanged:
            x = jax.lax.psum_scatter(x, axis, scatter_dimension=0, tiled=True)
        return x

    def ids(self, targets, size: int):
        """Targets as places in this device's part of the vocabulary; elsewhere negative."""
        if self.vocabulary:
            targets = targets - jax.lax.axis_index(self.vocabulary) * size
        return jnp.where(targets < size, targets, -1)


def _psum(x, axes):
    return jax.lax.psum(x, axes) if axes else x


def _log_probs_forward(config, temperature, table, hidden, targets):
    layout = _layout(table, hidden)

    def one(table, states, ids):
        (states, rows), (ids, _) = (layout.collect(x) for x in (states, ids))
        logits = decoder.unembed(config, table, states) / temperature
        highest = jnp.max(logits, axis=-1)
        highest = jax.lax.pmax(highest, layout.vocabulary) if layout.vocabulary else highest
        shares = jnp.exp(logits - highest[:, None])
        place = layout.ids(ids, logits.shape[-1])
        chosen = jnp.take_along_axis(logits, jnp.maximum(place, 0)[:, None], axis=-1)[:, 0]
        sums = (jnp.sum(shares, axis=-1), jnp.sum(shares * logits, axis=-1), (place >= 0) * chosen)
        total, mean, chosen = _psum(sums, layout.vocabulary)
        normaliser = highest + jnp.log(total)
        results = (chosen - normaliser, normaliser - mean / total, normaliser)
        return tuple(layout.own(x.reshape(rows, -1)) for x in results)

    def chunks(table, hidden, targets):
        table = layout.by_vocabulary(table, hidden.dtype)
        return jax.lax.map(lambda part: one(table, *part), (hidden, targets))

    results = layout.map(chunks, "trr", "rrr")(table, hidden, targets)
    log_probs, entropy, normaliser = results
    return (log_probs, entropy), (table, hidden, targets, normaliser)


def _log_probs_backward(config, temperature, kept, gradients):
    table, hidden, targets, normaliser = kept
    layout = _layout(table, hidden)

    def one(table, table_gradient, part):
        (states, rows), *rest = (layout.collect(x) for x in part)
        ids, normaliser, gradient = (x for x, _ in rest)
        logits, pull = jax.vjp(functools.partial(decoder.unembed, config), table, states)
        place = layout.ids(ids, logits.shape[-1])
        is_target = place[:, None] == jnp.arange(logits.shape[-1])
        slope = is_target - jnp.exp(logits / temperature - normaliser[:, None])
        to_table, to_states = pull(gradient[:, None] / temperature * slope)
        to_states = layout.add_up(to_states.reshape(rows, -1, to_states.shape[-1]))
        return jax.tree.map(jnp.add, table_gradient, to_table), to_states

    def chunks(held, *parts):
        table = layout.by_vocabulary(held, parts[0].dtype)
        zero = jax.tree.map(lambda x, like: jnp.zeros(x.shape, like.dtype), table, held)
        table_gradient, to_hidden = jax.lax.scan(functools.partial(one, table), zero, parts)
        others = tuple(axis for axis in layout.batch if axis not in layout.exchanged)
        table_gradient = jax.tree.map(lambda x: _psum(x, others), table_gradient)
        return layout.by_width(table_gradient), to_hidden

    map_chunks = layout.map(chunks, "trrrr", "tr")
    table_gradient, to_hidden = map_chunks(table, hidden, targets, normaliser, gradients[0])
    return table_gradient, to_hidden, None


def _layout(table: Weights, hidden) -> _Layout:
    (vocabulary,) = {leaf.shape[0] for leaf in jax.tree.leaves(table)}
    return _Layout.of(hidden.shape[1], vocabulary)


_chunked_log_probs.defvjp(_log_probs_forward, _log_probs_backward)
