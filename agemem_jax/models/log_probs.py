"""Log-probabilities of chosen tokens, without an array of all tokens' logits.

On a mesh the vocabulary is split over `tensor` and over groups of the devices of `fsdp`, and inside
of a group hidden states travel to it instead of the whole table to them: a device computes the
logits of its part of the vocabulary for the rows of all devices of its group, and normalisers are
added up. Larger groups exchange more hidden states, smaller ones more of the table; the size at
which both together are about least does not depend on how many devices there are.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.parallel import rules

_EXCHANGED = "fsdp"  # splits the table's width, and here its rows
_MOST_LOGITS = 2**26  # that a device of a mesh computes at once


def token_log_probs(
    config: DecoderConfig,
    weights: Weights,
    hidden: Float[Array, "*row target width"],
    targets: Int[Array, "*row target"],
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
    entropy_gradient: bool = False,
) -> tuple[Float[Array, "*row target"], Float[Array, "*row target"]]:
    """Log-probabilities of `targets`, and entropies, in float32.

    Works through `chunk` targets of each device's rows at a time, forwards and backwards, so
    that no [target, vocab] array of all targets exists. Gradient flows through entropies where
    `entropy_gradient` asks for it, which costs no other pass over the vocabulary.
    """
    shape, count = targets.shape, targets.shape[-1]
    hidden = hidden.reshape(-1, count, hidden.shape[-1])
    targets = targets.reshape(-1, count)
    rows, shards = len(targets), _shards(len(targets))
    if rules.current_sizes():
        fitting = max(_MOST_LOGITS // config.vocab_size, 1)
        chunk = min(chunk, 1 << (fitting.bit_length() - 1))  # whole tiles of a TPU
    chunk = max(1, min(chunk * shards // rows, count))
    pad = -count % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
    hidden = hidden.reshape(rows, -1, chunk, hidden.shape[-1]).swapaxes(0, 1)
    targets = jnp.pad(targets, ((0, 0), (0, pad))).reshape(rows, -1, chunk).swapaxes(0, 1)
    name = "embedding" if config.tied_embeddings else "output"
    scales = None if weights.scales is None else {name: weights.scales[name]}
    table = Weights({name: weights.params[name]}, scales=scales)
    results = _chunked_log_probs(config, temperature, entropy_gradient, table, hidden, targets)
    log_probs, entropy = (x.swapaxes(0, 1).reshape(rows, -1)[:, :count] for x in results)
    return log_probs.reshape(shape), entropy.reshape(shape)


def _shards(rows: int) -> int:
    """Into how many parts the rows are split."""
    sizes, count = rules.current_sizes(), 1
    for axis in rules.BATCH:
        count *= sizes.get(axis, 1)
    return count if rows % count == 0 else 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _chunked_log_probs(config, temperature, entropy_gradient, table, hidden, targets):
    return _log_probs_forward(config, temperature, entropy_gradient, table, hidden, targets)[0]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Which mesh axes split what. Without a mesh nothing is split, and nothing is exchanged.

    Attributes:
      tensor: whether `tensor` splits the table's rows.
      group: how many neighbours on `fsdp` split the table's rows between them while logits are
        computed. Outside of that, `fsdp` splits its width.
      groups: how many such groups there are.
      batch: axes of rows of hidden states.
      is_mapped: whether there is a mesh.
    """

    tensor: bool
    group: int
    groups: int
    batch: tuple[str, ...]
    is_mapped: bool

    @classmethod
    def of(cls, hidden, vocabulary: int) -> "_Layout":
        """For hidden states [chunk, row, target, width] and so many rows of the table."""
        sizes = rules.current_sizes()
        chunks, rows, targets, _ = hidden.shape
        batch = tuple(a for a in rules.BATCH if sizes.get(a, 1) > 1) if _shards(rows) > 1 else ()
        tensor, fsdp = sizes.get("tensor", 1), sizes.get(_EXCHANGED, 1)
        if vocabulary % (tensor * fsdp):
            tensor = fsdp = 1
        group = fsdp
        if _EXCHANGED in batch:
            own = chunks * (rows // _shards(rows)) * targets
            group = _group(own, vocabulary // tensor, fsdp)
        return cls(tensor > 1, group, fsdp // group, batch, bool(sizes))

    @property
    def exchanges(self) -> bool:
        """Whether devices compute each other's rows."""
        return self.group > 1 and _EXCHANGED in self.batch

    def map(self, function, inputs: str, outputs: str):
        """`function` on each device's part; "t" stands for the table, "r" for [chunk, row]."""
        if not self.is_mapped:
            return function
        width = _EXCHANGED if self.group * self.groups > 1 else None
        of_table = PartitionSpec("tensor" if self.tensor else None, width)
        specs = {"t": of_table, "r": PartitionSpec(None, self.batch)}
        ins, outs = (tuple(specs[each] for each in names) for names in (inputs, outputs))
        return jax.shard_map(function, in_specs=ins, out_specs=outs, check_vma=False)

    @property
    def _neighbours(self) -> list[list[int]]:
        """Places on `fsdp`, by group."""
        places = range(self.group * self.groups)
        return [list(places[i : i + self.group]) for i in places[:: self.group]]

    @property
    def _counterparts(self) -> list[list[int]]:
        """Places on `fsdp` that hold the same part of the vocabulary."""
        return [list(range(i, self.group * self.groups, self.group)) for i in range(self.group)]

    def by_vocabulary(self, table: Weights, dtype) -> Weights:
        """Whole rows of the table, for a part of the vocabulary."""

        def turn(x):
            # The parts of one group member stand one behind the other, each on another group.
            x = x.reshape(self.group, self.groups, -1, x.shape[-1]).swapaxes(0, 1)
            x = x.reshape(-1, x.shape[-1])
            x = jax.lax.all_to_all(x, _EXCHANGED, split_axis=0, concat_axis=1, tiled=True)
            if self.groups > 1:
                groups = self._counterparts
                x = jax.lax.all_gather(x, _EXCHANGED, axis_index_groups=groups, tiled=True)
            return x

        table = table.replace(params=jax.tree.map(lambda x: x.astype(dtype), table.params))
        return jax.tree.map(turn, table) if self.group * self.groups > 1 else table

    def by_width(self, table: Weights) -> Weights:
        """The inverse of `by_vocabulary`, summed over groups."""

        def turn(x):
            if self.groups > 1:
                groups = self._counterparts
                x = jax.lax.psum_scatter(x, _EXCHANGED, axis_index_groups=groups, tiled=True)
            x = jax.lax.all_to_all(x, _EXCHANGED, split_axis=1, concat_axis=0, tiled=True)
            x = x.reshape(self.groups, self.group, -1, x.shape[-1]).swapaxes(0, 1)
            return x.reshape(-1, x.shape[-1])

        return jax.tree.map(turn, table) if self.group * self.groups > 1 else table

    def collect(self, x):
        """Targets of all devices that this one computes for, one behind the other; their rows."""
        if self.exchanges:
            x = jax.lax.all_gather(x, _EXCHANGED, axis_index_groups=self._neighbours, tiled=True)
        return x.reshape(-1, *x.shape[2:]), x.shape[0]

    def own(self, x):
        """This device's rows of what was collected."""
        if not self.exchanges:
            return x
        size = x.shape[0] // self.group
        return jax.lax.dynamic_slice_in_dim(x, self._place * size, size)

    @property
    def _place(self):
        return jax.lax.axis_index(_EXCHANGED) % self.group

    def reduce(self, function, x):
        """Sum (`jax.lax.psum`) or maximum (`jax.lax.pmax`) over the parts of the vocabulary."""
        x = function(x, "tensor") if self.tensor else x
        if self.group == 1:
            return x
        return function(x, _EXCHANGED, axis_index_groups=self._neighbours)

    def add_up(self, x):
        """Sum over the parts of the vocabulary; of collected rows each device keeps its own."""
        if not self.exchanges:
            return self.reduce(jax.lax.psum, x)
        x = jax.lax.psum(x, "tensor") if self.tensor else x
        return jax.lax.psum_scatter(
            x, _EXCHANGED, axis_index_groups=self._neighbours, tiled=True
        )  # fmt: skip

    def ids(self, targets, size: int):
        """Targets as places in this device's part of the vocabulary; elsewhere negative."""
        part = self._place if self.group > 1 else 0
        if self.tensor:
            part += jax.lax.axis_index("tensor") * self.group
        targets = targets - part * size
        return jnp.where(targets < size, targets, -1)


def _group(targets: int, vocabulary: int, devices: int) -> int:
    """How many neighbours split the vocabulary between them.

    Hidden states travel twice in two bytes and their gradients once; of the table a part twice in
    two bytes, and its gradient once in four. Among sizes that cost about the least, the largest
    one holds the least of the table.
    """
    sizes = [size for size in range(1, devices + 1) if devices % size == 0]
    costs = [6 * targets * (n - 1) + 8 * vocabulary * (devices - n) / (devices * n) for n in sizes]
    return max(n for n, cost in zip(sizes, costs, strict=True) if cost <= 1.25 * min(costs))


def _log_probs_forward(config, temperature, entropy_gradient, table, hidden, targets):
    layout = _layout(table, hidden)

    def one(table, states, ids):
        (states, rows), (ids, _) = (layout.collect(x) for x in (states, ids))
        logits = decoder.unembed(config, table, states) / temperature
        highest = layout.reduce(jax.lax.pmax, jnp.max(logits, axis=-1))
        shares = jnp.exp(logits - highest[:, None])
        place = layout.ids(ids, logits.shape[-1])
        chosen = jnp.take_along_axis(logits, jnp.maximum(place, 0)[:, None], axis=-1)[:, 0]
        sums = (jnp.sum(shares, axis=-1), jnp.sum(shares * logits, axis=-1), (place >= 0) * chosen)
        total, mean, chosen = layout.reduce(jax.lax.psum, sums)
        normaliser = highest + jnp.log(total)
        results = (chosen - normaliser, normaliser - mean / total, normaliser)
        return tuple(layout.own(x.reshape(rows, -1)) for x in results)

    def chunks(table, hidden, targets):
        table = layout.by_vocabulary(table, hidden.dtype)
        return jax.lax.map(lambda part: one(table, *part), (hidden, targets))

    results = layout.map(chunks, "trr", "rrr")(table, hidden, targets)
    log_probs, entropy, normaliser = results
    kept = (table, hidden, targets, normaliser, entropy if entropy_gradient else None)
    return (log_probs, entropy), kept


def _log_probs_backward(config, temperature, entropy_gradient, kept, gradients):
    """With z the logits over the temperature, p their softmax and H its entropy:

    d log p_target / dz_v = [v = target] - p_v        dH / dz_v = -p_v (log p_v + H)
    """
    table, hidden, targets, normaliser, entropy = kept
    layout = _layout(table, hidden)

    def one(table, table_gradient, part):
        (states, rows), *rest = (layout.collect(x) for x in part)
        ids, normaliser, gradient, *of_entropy = (x for x, _ in rest)
        logits, pull = jax.vjp(functools.partial(decoder.unembed, config), table, states)
        place = layout.ids(ids, logits.shape[-1])
        is_target = place[:, None] == jnp.arange(logits.shape[-1])
        scaled = logits / temperature - normaliser[:, None]
        slope = is_target - jnp.exp(scaled)
        to_logits = gradient[:, None] / temperature * slope
        if of_entropy:
            entropy, gradient = (x[:, None] for x in of_entropy)
            to_logits -= gradient / temperature * jnp.exp(scaled) * (scaled + entropy)
        to_table, to_states = pull(to_logits)
        to_states = layout.add_up(to_states.reshape(rows, -1, to_states.shape[-1]))
        return jax.tree.map(jnp.add, table_gradient, to_table), to_states

    def chunks(held, *parts):
        table = layout.by_vocabulary(held, parts[0].dtype)
        zero = jax.tree.map(lambda x, like: jnp.zeros(x.shape, like.dtype), table, held)
        table_gradient, to_hidden = jax.lax.scan(functools.partial(one, table), zero, parts)
        if "data" in layout.batch:
            table_gradient = jax.lax.psum(table_gradient, "data")
        return layout.by_width(table_gradient), to_hidden

    parts = (hidden, targets, normaliser, gradients[0])
    if entropy_gradient:
        parts += (entropy, gradients[1])
    map_chunks = layout.map(chunks, "t" + "r" * len(parts), "tr")
    table_gradient, to_hidden = map_chunks(table, *parts)
    return table_gradient, to_hidden, None


def _layout(table: Weights, hidden) -> _Layout:
    (vocabulary,) = {leaf.shape[0] for leaf in jax.tree.leaves(table)}
    return _Layout.of(hidden, vocabulary)


_chunked_log_probs.defvjp(_log_probs_forward, _log_probs_backward)
