"""From trajectories to optimiser steps: packing, scoring, updating, and what is told of it.

In a job of several processes each one packs its own share; they meet to agree on shapes, and in
the updates.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Array

from agemem_jax.models.config import DecoderConfig
from agemem_jax.parallel import arrays, processes
from agemem_jax.parallel.mesh import batch_shards
from agemem_jax.training import packing, pieces, train_state, update
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.monitoring.throughput import Stopwatch, Work
from agemem_jax.training.packing import Batch
from agemem_jax.training.train_state import TrainState

_UNITS = {
    "step": "steps", "trajectory": "trajectories", "token": "tokens", "constant": "trajectories",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the optimiser steps of an iteration gave.

    Attributes:
      updates: the metrics of each one, in order.
      units: how much of what counts equally (see `GRPOConfig.normalisation`) each one was on.
      work: that all of them did, in all processes.
    """

    updates: Sequence[Mapping[str, float]]
    units: Sequence[int]
    work: Work

    def metrics(self) -> dict[str, float]:
        """Of all updates together, see `over_updates`."""
        return over_updates(self.updates, self.units) | self.work.metrics()


def over_updates(updates: Sequence[Mapping[str, float]], units: Sequence[int]) -> dict[str, float]:
    """One line for several updates.

    Means weigh an update by its units, so that they are those of one update on everything.
    The gradient's norm has a mean over updates and a largest value. What ends in "_max" is the
    largest, but `sampling_gap_max` that of the first update, whose policy is the one that
    sampled. The learning rate is that of the last. Updates that were skipped are counted, and
    are in nothing else, unless there is no other.
    """
    counts = {"updates": len(updates), "skipped": sum(int(u["skipped"]) for u in updates)}
    if not updates:
        return counts
    pairs = list(zip(updates, units, strict=True))
    taken = [pair for pair in pairs if not pair[0]["skipped"]] or pairs
    values, weights = [u for u, _ in taken], np.array([n for _, n in taken], float)
    if not weights.any():
        weights[:] = 1.0
    line = {}
    for name in updates[0]:
        series = [float(each[name]) for each in values]
        if name == "sampling_gap_max":
            line[name] = float(updates[0][name])
        elif name == "learning_rate":
            line[name] = float(updates[-1][name])
        elif name.endswith("_max"):
            line[name] = max(series)
        elif name == "grad_norm":
            line |= {name: float(np.mean(series)), "grad_norm_max": max(series)}
        elif name != "skipped":
            line[name] = float(np.average(series, weights=weights))
    return line | counts


class Learner:
    """The optimiser steps of a run. States are given and come back; nothing is held."""

    def __init__(self, config: RunConfig, model: DecoderConfig, mesh: Mesh | None):
        """A learner on the mesh of training, None for a single device."""
        self._config, self._model, self._mesh = config, model, mesh
        self._processes = jax.process_count()
        self._packing = self._local_packing()

    def imitate(
        self,
        state: TrainState,
        demonstrations: Sequence[pieces.HasSegments],
        prefix: Sequence[int],
        clock: Stopwatch,
    ) -> tuple[TrainState, Outcome]:
        """One step of cross entropy on this process's share of a batch of demonstrations."""
        with clock.measure("packing"):
            ones = np.ones(len(demonstrations))
            batch = self._pack(demonstrations, ones, "token", prefix)
        with clock.measure("update"):
            state, values = self._sft_update(state, self._placed(batch))
            values = jax.device_get(values)
        return state, self._outcome([values], [batch], [demonstrations], "token")

    def improve(
        self,
        state: TrainState,
        trajectories: Sequence[pieces.HasSegments],
        advantages: np.ndarray,
        prefix: Sequence[int],
        rng: np.random.Generator,
        clock: Stopwatch,
    ) -> tuple[TrainState, Outcome]:
        """The steps on one rollout batch, as `GRPOConfig` says.

        The host looks at the device between epochs, for the seconds' sake, and not between
        minibatches.

        Args:
          state: of training; donated.
          trajectories: this process's share.
          advantages: one per trajectory.
          prefix: tokens that most segments start with.
          rng: deals trajectories into minibatches.
          clock: takes the seconds of packing, scoring and updates.

        With the old policy's log-probabilities scored here, minibatches are dealt once, and are
        the same in every epoch.
        """
        grpo = self._config.grpo
        # What the old policy says of a minibatch is known for those of the first epoch only.
        rescores = self._config.old_log_probs == "scored"
        shares, batches, scores, rescored = [], [], [], []
        updates, worked, dealt = [], [], []
        for epoch in range(grpo.epochs):
            deals_anew = grpo.minibatches > 1 and not rescores
            if not epoch or deals_anew:  # otherwise the same minibatches in every epoch
                with clock.measure("packing"):
                    shares = self._deal(len(trajectories), rng)
                    batches = [
                        self._pack(
                            [trajectories[i] for i in share], advantages[share],
                            grpo.normalisation, prefix,
                        )
                        for share in shares
                    ]  # fmt: skip
                scores = rescored = [None] * len(batches)
                if grpo.beta > 0:
                    with clock.measure("score"):
                        scores = self._scored(train_state.reference_weights(state), batches)
                if rescores:
                    with clock.measure("score"):
                        rescored = self._scored(train_state.weights(state), batches)
            with clock.measure("update"):
                for batch, scored, old in zip(batches, scores, rescored, strict=True):
                    batch = self._placed(batch).replace(
                        ref_log_probs=scored, rescored_log_probs=old
                    )
                    state, values = self._grpo_update(state, batch)
                    updates.append(values)
                jax.block_until_ready(updates)
            worked += batches
            dealt += [[trajectories[i] for i in share] for share in shares]
        return state, self._outcome(jax.device_get(updates), worked, dealt, grpo.normalisation)

    def _scored(self, weights, batches: Sequence[Batch]) -> list[Array]:
        """Log-probabilities of all targets under some weights, batch by batch."""
        return jax.block_until_ready([self._score(weights, self._placed(b)) for b in batches])

    def _outcome(self, updates, batches: Sequence[Batch], dealt, normalisation: str) -> Outcome:
        """Counts of all processes."""
        own = {
            "units": [
                getattr(pieces.Extent.measure((), pieces.count_steps(each)), _UNITS[normalisation])
                for each in dealt
            ],
            "work": dataclasses.asdict(Work.sum([Work.of(batch) for batch in batches])),
        }
        parts = processes.gather(own)
        units = np.sum([part["units"] for part in parts], axis=0, dtype=int).tolist()
        works = [Work(**part["work"]) for part in parts]
        works += [Work.of_prefix(batch) for batch in batches]
        return Outcome(updates, units, Work.sum(works))

    def _local_packing(self) -> packing.PackingConfig:
        """How this process packs: its part of the rows of a microbatch."""
        shards, rows = batch_shards(self._mesh), self._config.packing.rows
        whole = -(-rows // shards) * shards
        if whole != rows:
            logging.info("packing.rows is %d; %d devices take %d.", rows, shards, whole)
        return dataclasses.replace(self._config.packing, rows=whole // self._processes)

    def _deal(self, count: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Minibatches of this process's trajectories, as many as any process has."""
        minibatches = self._config.grpo.minibatches
        shares = packing.split(count, minibatches, rng if minibatches > 1 else None)
        most = max(processes.gather(len(shares)))
        return shares + [np.zeros(0, np.int64)] * (most - len(shares))

    def _pack(self, trajectories, advantages, normalisation: str, prefix) -> Batch:
        """Packs this process's share."""
        return packing.pack(
            trajectories, advantages, self._packing,
            normalisation=normalisation, constant_length=self._constant_length,
            prefix=prefix, gather=processes.gather,
        )  # fmt: skip

    @property
    def _constant_length(self) -> int:
        config = self._config
        return config.grpo.constant_length or config.episode.max_response_tokens

    def _placed(self, batch: Batch) -> Batch:
        """A batch of this process as everyone's on the mesh."""
        return arrays.place_rows(self._mesh, batch, axis=1)

    @functools.cached_property
    def _sft_update(self) -> update.Update:
        return update.make_sft_update(self._model, self._config.warmup_optimizer, mesh=self._mesh)

    @functools.cached_property
    def _grpo_update(self) -> update.Update:
        config = self._config
        return update.make_update(
            self._model, config.grpo, config.rl_optimizer,
            temperature=config.temperature, mesh=self._mesh,
            old_is_current=config.old_log_probs == "updated",
        )  # fmt: skip

    @functools.cached_property
    def _score(self) -> update.Score:
        return update.make_score(self._model, temperature=self._config.temperature, mesh=self._mesh)
