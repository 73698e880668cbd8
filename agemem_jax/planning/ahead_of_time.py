"""The functions of a job, lowered for machines that are not there.

`Job.of` lays a configuration out over the devices of a topology; `lower` then gives prefill,
decode, score and update as the trainer and the engine call them, from shapes alone.
"""

import dataclasses
import functools
import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import PyTree

from agemem_jax.memory import bank, minilm
from agemem_jax.memory.embedders import HashedNGramEmbedder
from agemem_jax.models import backends, decoder, kv_cache, stacking
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.registry import BACKBONES
from agemem_jax.parallel import arrays, rules
from agemem_jax.parallel.mesh import batch_shards, make_mesh, make_rollout_mesh, use
from agemem_jax.planning import gpu_target
from agemem_jax.planning.chips import Topology
from agemem_jax.rollout import decoding
from agemem_jax.training import components, train_state, update
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.packing import Batch
from agemem_jax.training.train_state import TrainState

FUNCTIONS = ("prefill", "decode", "score", "update")
# For libtpu: there is no TPU, nobody to be asked what it is, and nothing to be locked.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
}  # fmt: skip


@functools.cache  # devices of two descriptions cannot be used together
def devices(topology: Topology) -> tuple[Any, ...]:
    """The devices of a topology, none of which is there.

    For TPUs, sets what libtpu's environment must say of a machine without one, unless it says
    something.

    Raises:
      ValueError: the compiler for these chips is missing, or knows no such topology.
    """
    if topology.chip.platform == "cuda":
        return gpu_target.devices(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            'libtpu, the compiler for TPUs, is not installed: pip install "jax[tpu]" '
            "(or agemem_jax[tpu]); it needs no TPU."
        )
    for name, value in _ALONE.items():
        os.environ.setdefault(name, value)
    try:
        return tuple(
            topologies.get_topology_desc(platform="tpu", topology_name=topology.name).devices
        )
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"libtpu gives no topology {topology.name!r}: {str(error).splitlines()[0]}"
        ) from error


@dataclasses.dataclass(frozen=True)
class Job:
    """A configuration on the devices of a topology.

    Attributes:
      config: of the run.
      model: of the decoder.
      devices, own: all of them, and those of one process.
      mesh: of training; None for a single device.
      rollout_mesh: that of a process's rollouts, likewise.
      prefix: tokens that all segments share at their start.
    """

    config: RunConfig
    model: DecoderConfig
    devices: tuple[Any, ...]
    own: tuple[Any, ...]
    mesh: Mesh | None
    rollout_mesh: Mesh | None
    prefix: int

    @classmethod
    def of(
        cls, config: RunConfig, devices: Sequence[Any], own: Sequence[Any], prefix: int
    ) -> "Job":
        """Lays `config` out.

        Args:
          config: of the run.
          devices: of a topology.
          own: of a topology that is as large as what one process has of the other.
          prefix: tokens that all segments share at their start.

        Raises:
          ValueError: the backbone's shape is not known, or the mesh does not fit the devices.
        """
        if config.backbone not in BACKBONES:
            raise ValueError(
                f"backbone is {config.backbone!r}, whose shape is not known without its files; "
                f"take a registered one: {', '.join(BACKBONES)}."
            )
        platform, rollout_mesh = devices[0].platform, make_rollout_mesh(config.mesh, own)
        engine = config.engine.resolved(
            platform, config.model.compute_dtype, 1 if rollout_mesh is None else len(own)
        )
        if engine.weights == "int8" or engine.weights == "stacked" and rollout_mesh is not None:
            raise ValueError(
                f"engine.weights is {engine.weights!r}; only 'as_trained', and 'stacked' on a "
                "single device, can be compiled ahead of time."
            )
        config = dataclasses.replace(config, engine=engine)
        backend = backends.of_platform(platform)
        model = dataclasses.replace(
            BACKBONES[config.backbone].shape,
            **components.decoder_options(config.model) | {"backend": backend},
        )
        job = cls(
            config, model, tuple(devices), tuple(own), make_mesh(config.mesh, devices),
            rollout_mesh, prefix,
        )  # fmt: skip
        if config.engine.slots % batch_shards(job.rollout_mesh):
            raise ValueError(
                f"engine.slots is {config.engine.slots}, which {batch_shards(job.rollout_mesh)} "
                "groups of devices cannot share evenly; take a multiple."
            )
        return job

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of what the job runs; it scores a reference, and the old policy, if asked."""
        scores = self.config.grpo.beta > 0 or self.config.old_log_probs == "scored"
        return tuple(n for n in FUNCTIONS if n != "score" or scores)

    @property
    def rows(self) -> int:
        """Rows of a microbatch, of all devices; as `Trainer` rounds them."""
        shards = batch_shards(self.mesh)
        return -(-self.config.packing.rows // shards) * shards

    @property
    def prefill_rows(self) -> int:
        """Slots of a prefill call, of one process; as `Engine` rounds them."""
        shards = batch_shards(self.rollout_mesh)
        return -(-self.config.engine.prefill_rows // shards) * shards

    def state(self) -> TrainState:
        """The training state as shapes with shardings."""
        config = self.config
        return train_state.abstract_state(
            self.model, config.rl_optimizer, keep_reference=config.grpo.beta > 0,
            param_dtype=config.model.param_dtype, mesh=self.mesh, device=self.devices[0],
        )  # fmt: skip

    def batch(self, *, scored: bool) -> Batch:
        """A packed batch likewise, with the reference's log-probabilities or without."""
        packing = self.config.packing
        length = packing.row_lengths[-1]
        targets = min(packing.max_targets or length, length)
        shape = (packing.max_microbatches, self.rows)

        def array(dtype, *sizes):
            return jax.ShapeDtypeStruct(sizes, dtype, sharding=self._rows(len(sizes)))

        by_token, by_target = (*shape, length), (*shape, targets)
        return Batch(
            tokens=array(jnp.int32, *by_token),
            positions=array(jnp.int32, *by_token),
            visible_to=array(jnp.int32, *by_token),
            prefix=array(jnp.int32, shape[0], self.prefix),
            uses_prefix=array(jnp.bool_, *by_token),
            target_positions=array(jnp.int32, *by_target),
            targets=array(jnp.int32, *by_target),
            target_mask=array(jnp.bool_, *by_target),
            step_ids=array(jnp.int32, *by_target),
            old_log_probs=array(jnp.float32, *by_target),
            ref_log_probs=array(jnp.float32, *by_target) if scored else None,
            advantages=array(jnp.float32, *by_target),
            weights=array(jnp.float32, *by_target),
            num_microbatches=array(jnp.int32),
        )

    @property
    def sampled_model(self) -> DecoderConfig:
        """The decoder as rollouts run it."""
        if self.config.engine.weights == "stacked":
            return stacking.stacked_config(self.model)
        return self.model

    def rollout_weights(self) -> decoder.Weights:
        """The copy of the policy that a process samples from; see `Trainer`."""
        weights = train_state.weights(self.state())
        if self.config.engine.weights == "stacked":
            stacked = jax.eval_shape(lambda held: stacking.stack(self.model, held)[1], weights)
            alone = SingleDeviceSharding(self.own[0])
            return arrays.abstract(stacked, jax.tree.map(lambda _: alone, stacked))
        if self.mesh is None:
            return weights
        cast = jax.eval_shape(functools.partial(decoder.in_compute_dtype, self.model), weights)
        if self.rollout_mesh is None:
            alone = _everywhere(None, self.own)
            return arrays.abstract(cast, jax.tree.map(lambda _: alone, cast))
        return arrays.abstract(cast, train_state.weight_shardings(self.model, self.rollout_mesh))

    def cache(self) -> kv_cache.Cache:
        """The cache of a process's slots."""
        engine = self.config.engine
        make = functools.partial(
            kv_cache.init_cache, self.sampled_model, engine.slots, engine.max_length,
            jnp.dtype(engine.cache_dtype), engine.attend_lengths[:-1],
        )  # fmt: skip
        return self._split(jax.eval_shape(make), "batch", "kv_heads")

    def decode_state(self) -> decoding.DecodeState:
        """The state of a process's slots."""
        idle = functools.partial(decoding.DecodeState.idle, self.config.engine.slots)
        return self._split(jax.eval_shape(idle), "batch")

    def lower(self, name: str) -> jax.stages.Lowered:
        """One of `functions`, lowered as the job calls it."""
        lower: dict[str, Callable[[], jax.stages.Lowered]] = {
            "prefill": self._lower_prefill, "decode": self._lower_decode,
            "score": self._lower_score, "update": self._lower_update,
        }  # fmt: skip
        return lower[name]()

    def memories(self) -> PyTree:
        """The long-term memories of a process's slots, and the encoder of what is in them."""
        encoder, dim = None, HashedNGramEmbedder().dim
        if self.config.memory.embedder == "minilm":
            encoder, dim = minilm.abstract_params(), minilm.EncoderConfig().hidden_size
            first = SingleDeviceSharding(self.own[0])
            encoder = arrays.abstract(encoder, jax.tree.map(lambda _: first, encoder))
        slots, entries = self.config.engine.slots, self.config.memory.entries
        memories = jax.eval_shape(functools.partial(bank.init_bank, slots, entries, dim))
        return self._split(memories, "batch"), encoder

    def held(self, name: str) -> PyTree:
        """What lives beside the arguments while a function runs."""
        state, always = self.state(), [self.memories()]
        if name in ("prefill", "decode"):
            if name == "prefill":
                always.append(self.decode_state())
            if self.mesh is None:  # rollouts read the state's own weights
                return always, state.replace(trainable=None, frozen=None)
            return always, state
        always.append(self.decode_state())
        if self.config.grpo.beta > 0:  # scores of the other minibatches
            waiting = self.config.grpo.minibatches - 1
            always += [self.batch(scored=True).ref_log_probs] * waiting
        if self.config.old_log_probs == "scored":  # likewise, and those of this one while it scores
            waiting = self.config.grpo.minibatches - (name == "update")
            always += [self.batch(scored=True).ref_log_probs] * waiting
        if name == "update":
            return always, state.reference
        return always, (state.trainable, state.opt_state, state.step, state.key)

    def at_start(self) -> PyTree:
        """What lives before the first token, when a run begins or is taken up again.

        Parameters are read into their place, a checkpoint into that of the state. So beside
        that and the policy's copy for rollouts there is one array at most on its way: a base
        parameter that becomes a float32 master, or one of the policy in the compute dtype.
        """
        state = self.state()
        there = [state, self.memories(), self.decode_state()]
        weights, on_their_way = train_state.weights(state), []
        if self.mesh is not None:
            there.append(self.rollout_weights())
            dtypes = decoder.read_dtypes(self.model, weights)
            on_their_way = jax.tree.leaves(_changed(weights, dtypes))
        if not self.model.lora_rank:
            dtype = jnp.dtype(self.config.model.param_dtype)
            dtypes = jax.tree.map(lambda _: dtype, weights)
            on_their_way += jax.tree.leaves(_changed(weights, dtypes))
        if on_their_way:
            there.append(max(on_their_way, key=bytes_per_device))
        return there

    def _lower_prefill(self) -> jax.stages.Lowered:
        engine = self.config.engine
        shape = (self.prefill_rows, engine.prefill_buckets[-1])
        everywhere = _everywhere(self.rollout_mesh, self.own)
        places, tokens = (
            jax.ShapeDtypeStruct(each, jnp.int32, sharding=everywhere)
            for each in (shape[:1], shape)
        )
        arguments = (self.rollout_weights(), self.cache(), places, places, tokens, tokens)
        with use(self.rollout_mesh):
            return decoding.prefill.lower(
                self.sampled_model, *arguments, parts=len(engine.attend_lengths),
                shards=batch_shards(self.rollout_mesh),
            )  # fmt: skip

    def _lower_decode(self) -> jax.stages.Lowered:
        engine = self.config.engine
        arguments = (self.rollout_weights(), self.cache(), self.decode_state(), None)
        with use(self.rollout_mesh):
            return decoding.decode_chunk.lower(
                self.sampled_model, *arguments, parts=len(engine.attend_lengths),
                chunk=engine.chunk, idle_slots=engine.idle_slots, stop_ids=(0,),
            )  # fmt: skip

    def _lower_score(self) -> jax.stages.Lowered:
        score = update.make_score(self.model, temperature=self.config.temperature, mesh=self.mesh)
        return score.lower(train_state.reference_weights(self.state()), self.batch(scored=False))

    def _lower_update(self) -> jax.stages.Lowered:
        config = self.config
        step = update.make_update(
            self.model, config.grpo, config.rl_optimizer, temperature=config.temperature,
            mesh=self.mesh, old_is_current=config.old_log_probs == "updated",
        )  # fmt: skip
        batch = self.batch(scored=config.grpo.beta > 0)
        if config.old_log_probs == "scored":
            batch = batch.replace(rescored_log_probs=self.batch(scored=True).ref_log_probs)
        return step.lower(self.state(), batch)

    def _rows(self, ndim: int):
        """As `arrays.place_rows` lays arrays of microbatches out."""
        if self.mesh is None:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(*[None, rules.BATCH] if ndim > 2 else []))

    def _split(self, tree: PyTree, *names: str) -> PyTree:
        """On the mesh of rollouts, split as the names say."""
        mesh = self.rollout_mesh

        def one(x):
            if mesh is None:
                return SingleDeviceSharding(self.own[0])
            return rules.activation_sharding(mesh, x.shape, *names)

        return arrays.abstract(tree, jax.tree.map(one, tree))


def _changed(tree: PyTree, dtypes: PyTree) -> PyTree:
    """Those arrays that have another dtype, in it."""

    def one(x, dtype):
        if x.dtype == dtype:
            return None
        return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)

    return jax.tree.map(one, tree, dtypes)


def _everywhere(mesh: Mesh | None, devices: Sequence[Any]):
    return SingleDeviceSharding(devices[0]) if mesh is None else rules.replicated(mesh)


def bytes_per_device(tree: PyTree) -> int:
    """Bytes that shapes with shardings take on one device."""

    def one(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
            return x.size * x.dtype.itemsize
        return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize

    return sum(one(x) for x in jax.tree.leaves(tree))
