"""The generation engine: fixed slots, one KV cache, prefix reuse with rewind.

A continuing episode keeps its slot. Its next prompt is compared with what the caches
hold, its own slot's first: the slot is rewound to the longest common token prefix, or
takes over a longer one from another slot, and only the rest is prefilled. So an append
costs its new tokens, an edit what lies behind the edit, and what the rollouts of a group
begin with is computed once. Prefills run in batches by length, a few between two chunks
of decoding, which run on device; the host looks only between chunks.

Prefill stops one token short of the prompt's end: decoding feeds that last token
first, so the vocabulary projection is never computed for prompt tokens.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, UInt32

from agemem_jax.models import decoder, kv_cache
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.quantisation import quantise_weights
from agemem_jax.models.stacking import stack
from agemem_jax.parallel import rules
from agemem_jax.parallel.mesh import batch_shards, use
from agemem_jax.rollout import decoding
from agemem_jax.rollout.constraints import token_masks
from agemem_jax.rollout.decoding import DecodeState
from agemem_jax.rollout.generation import (
    EngineConfig,
    EngineStats,
    Generation,
    GenerationRequest,
)
from agemem_jax.rollout.prefill_plan import Call, PrefillPlan
from agemem_jax.rollout.sampling import SamplingMode
from agemem_jax.rollout.stop_texts import cut_at_text


class _Chunk(NamedTuple):
    """A chunk of decoding that the device works on."""

    places: dict[int, int]  # by slot, its row in the output
    rows: int
    output: tuple[jax.Array, jax.Array, jax.Array]


class Engine:
    """Runs generations in slots. Holds the cache; all arithmetic is in pure functions.

    Use: `submit` any number of requests, then `step` until nothing is pending. A
    slot takes one request at a time and keeps its cache between requests.
    """

    def __init__(
        self,
        config: EngineConfig,
        model: DecoderConfig,
        stop_id: int | Sequence[int],
        decode: Callable[[Sequence[int]], str] | None = None,
        mesh: Mesh | None = None,
    ):
        """Makes an engine without weights; `load` gives it some.

        Args:
          config: its shapes.
          model: of the decoder.
          stop_id: the token that ends a response, or several of which each does.
          decode: text of tokens, needed for requests that stop at texts.
          mesh: of this process's rollouts; slots and their caches are split over it.

        Raises:
          ValueError: slots or weights cannot be split over the mesh.
        """
        devices = jax.local_devices()[:1] if mesh is None else list(mesh.devices.flat)
        self.config = config = config.resolved(
            devices[0].platform, model.compute_dtype, len(devices)
        )
        self._mesh, shards = mesh, batch_shards(mesh)
        if config.slots % shards:
            raise ValueError(
                f"engine.slots is {config.slots}, which {shards} groups of devices cannot "
                f"share evenly; take a multiple of {shards}."
            )
        if config.weights == "stacked" and mesh is not None and mesh.shape["tensor"] > 1:
            raise ValueError(
                "engine.weights is 'stacked', which a tensor axis cannot split; take 'as_trained' "
                "or mesh.rollout_tensor = 1."
            )
        self._decode = decode
        self.stats = EngineStats()
        self._trained_model = self._model = model
        self._stop_ids = tuple(stop_id) if isinstance(stop_id, Sequence) else (int(stop_id),)
        self._weights: decoder.Weights | None = None
        self._waiting: dict[int, GenerationRequest] = {}
        self._contexts: dict[int, Int[np.ndarray, " token"]] = {}  # of what waits
        self._running: dict[int, GenerationRequest] = {}
        self._partial: dict[int, tuple[list[int], list[float]]] = {}
        self._prefilled: dict[int, int] = {}  # tokens computed for a slot's request
        self._in_flight: _Chunk | None = None
        self._plan = PrefillPlan(config.slots, config.max_length, config.prefill_row_counts, shards)
        self._held = self._plan.held
        self._cache: kv_cache.Cache | None = None
        self._state = DecodeState.idle(config.slots)
        if mesh is not None:
            split = rules.activation_sharding(mesh, (config.slots,), "batch")
            self._state = jax.device_put(self._state, split)

    def load(self, weights: decoder.Weights, shared_prefix: Sequence[int] = ()) -> None:
        """Takes new weights; every cached key and value is forgotten.

        Args:
          weights: what to sample from until the next call.
          shared_prefix: tokens that all prompts start with; computed once here.
        """
        if self._running or self._waiting:
            raise RuntimeError("Engine.load was called while generations are pending.")
        with use(self._mesh):
            self._model, self._weights = self._as_configured(weights)
            if self._cache is None:
                self._cache = self._empty_cache()
            self._held.forget()
            if shared_prefix:
                self._share(np.asarray(shared_prefix, np.int32))

    def _empty_cache(self) -> kv_cache.Cache:
        config = self.config
        make = functools.partial(
            kv_cache.init_cache, self._model, config.slots, config.max_length,
            jnp.dtype(config.cache_dtype), config.attend_lengths[:-1],
        )  # fmt: skip
        if self._mesh is None:
            return make()
        split = jax.tree.map(
            lambda x: rules.activation_sharding(self._mesh, x.shape, "batch", "kv_heads"),
            jax.eval_shape(make),
        )
        return jax.jit(make, out_shardings=split)()

    def _share(self, prefix: Int[np.ndarray, " token"]) -> None:
        """Computes a prefix once for each shard and copies it into every slot."""
        while self._prefill(dict.fromkeys(self._plan.first_slots, prefix)):
            pass
        self._cache = decoding.share_prefix(
            self._cache, parts=self.config.parts(len(prefix)), shards=self._plan.shards
        )
        for slot in range(self.config.slots):
            self._held.hold(slot, prefix)

    def _as_configured(self, weights: decoder.Weights) -> tuple[DecoderConfig, decoder.Weights]:
        """What `engine.weights` makes of a policy's weights, and the model to run them with."""
        if self.config.weights == "int8":
            return self._trained_model, quantise_weights(weights)
        if self.config.weights == "stacked":
            return stack(self._trained_model, weights)
        return self._trained_model, weights

    def release(self) -> None:
        """Frees the memory of cache and weights, for instance during an update.

        Generations that are pending are dropped.
        """
        if self._running:
            with use(self._mesh):
                self._halt(range(self.config.slots))
        for held in (self._waiting, self._contexts, self._running, self._partial):
            held.clear()
        self._cache = self._weights = self._in_flight = None
        self._held.forget()

    @property
    def pending(self) -> bool:
        return bool(self._running or self._waiting)

    def submit(self, request: GenerationRequest) -> None:
        """Queues a request; its slot must be idle.

        Raises:
          ValueError: prompt and response do not fit into the cache, or a setting of the
            request makes no sense.
        """
        if request.slot in self._waiting or request.slot in self._running:
            raise ValueError(f"Slot {request.slot} is busy; a slot takes one request at a time.")
        if request.top_k < 0 or not 0.0 < request.top_p <= 1.0:
            raise ValueError(
                f"top_k is {request.top_k} and top_p {request.top_p}; they must be 0 or more, and "
                "above 0 up to 1."
            )
        if request.stop and self._decode is None:
            raise ValueError("A request that stops at texts needs an Engine made with `decode`.")
        if not request.prompt:
            raise ValueError("A generation needs a prompt of at least one token.")
        if len(request.prompt) + request.max_tokens > self.config.max_length:
            raise ValueError(
                f"A prompt of {len(request.prompt)} tokens and a response of up to "
                f"{request.max_tokens} do not fit into engine.max_length = "
                f"{self.config.max_length}; raise it or lower the budgets."
            )
        self._waiting[request.slot] = request
        # Prefill stops one token short of the prompt's end.
        self._contexts[request.slot] = np.fromiter(
            request.prompt, np.int32, len(request.prompt) - 1
        )
        self._prefilled[request.slot] = 0
        self.stats.requests += 1
        self.stats.prompt_tokens += len(request.prompt)

    def cancel(self, slot: int) -> None:
        """Ends the request of `slot`, if it has one, without a result.

        What its cache holds stays there, for whom it serves.
        """
        if self._waiting.pop(slot, None) is not None:
            del self._contexts[slot]
        elif slot in self._running:
            if self._in_flight is not None:
                self._in_flight.places.pop(slot, None)
            self._finish(slot)
            with use(self._mesh):
                self._halt([slot])

    def progress(self, slot: int) -> tuple[Sequence[int], Sequence[float]]:
        """Tokens and log-probabilities that the request of `slot` has given so far."""
        return self._partial.get(slot, ((), ()))

    def holds(self, slot: int, context: Int[np.ndarray, " token"]) -> int:
        """How many tokens of a context, from its start, the cache of `slot` holds."""
        return self._held.shared(slot, context)

    def step(self) -> list[Generation]:
        """Prefills some of what waits, decodes one chunk, and returns what finished.

        With `overlap`, what finished in the chunk before is returned while this one runs.
        """
        if self._cache is None:
            raise RuntimeError("Engine.step was called before Engine.load.")
        with use(self._mesh):
            self._admit_waiting()
            finished = self._collect() if self._in_flight else []
            if self._running:
                self._dispatch()
                if not self.config.overlap:
                    finished += self._collect()
        return finished

    def _dispatch(self) -> None:
        """Starts a chunk of decoding in all running slots, and does not wait for it."""
        longest = max(
            len(request.prompt) + len(self._partial[slot][0])
            for slot, request in self._running.items()
        )
        running = sorted(self._running)
        row_counts = self.config.row_counts if self._plan.shards == 1 else (self.config.slots,)
        rows = next(size for size in row_counts if size >= len(running))
        slots = None
        if rows < self.config.slots:
            slots = np.array(running + [self.config.slots] * (rows - len(running)), np.int32)
        places = {slot: slot if slots is None else row for row, slot in enumerate(running)}
        constraints = {row: self._running[slot].constraint for slot, row in places.items()}
        masks = token_masks(constraints, rows, self._model.vocab_size)
        self._cache, self._state, output = decoding.decode_chunk(
            self._model, self._weights, self._cache, self._state, slots, masks,
            parts=self.config.parts(longest + self.config.chunk),
            chunk=self.config.chunk if masks is None else 1,
            idle_slots=self.config.idle_slots, stop_ids=self._stop_ids,
            sampling=SamplingMode.of(self._running.values()),
        )  # fmt: skip
        for array in output:
            array.copy_to_host_async()
        self._in_flight = _Chunk(places, rows, output)

    def _collect(self) -> list[Generation]:
        """Waits for the chunk in flight, and returns what finished in it."""
        chunk, self._in_flight = self._in_flight, None
        # Lists as a whole: reading arrays slot by slot takes several times as long.
        tokens, log_probs, count = (x.tolist() for x in jax.device_get(chunk.output))
        if not self.stats.slot_steps:
            logging.info("First token sampled")  # all of the start-up lies before it
        self.stats.decode_steps += max(count)
        self.stats.slot_steps += max(count) * chunk.rows
        self.stats.busy_slot_steps += sum(count)
        finished, halted = [], []
        for slot, row in chunk.places.items():
            request = self._running[slot]
            partial_tokens, partial_log_probs = self._partial[slot]
            partial_tokens.extend(tokens[row][: count[row]])
            partial_log_probs.extend(log_probs[row][: count[row]])
            if request.constraint is not None:
                for token in tokens[row][: count[row]]:
                    request.constraint.accept(token)
            done = partial_tokens[-1] in self._stop_ids
            cut = cut_at_text(self._decode, partial_tokens, request.stop, self.config.chunk)
            if cut is not None:
                del partial_tokens[cut:], partial_log_probs[cut:]
                halted.append(slot)
            if done or cut is not None or len(partial_tokens) >= request.max_tokens:
                finished.append(self._finish(slot))
        if halted:
            self._halt(halted)
        return finished

    def _halt(self, slots: Sequence[int]) -> None:
        pad = [self.config.slots] * (self.config.slots - len(slots))
        self._state = decoding.halt(self._state, np.array([*slots, *pad], np.int32))

    def _finish(self, slot: int) -> Generation:
        request = self._running.pop(slot)
        tokens, log_probs = self._partial.pop(slot)
        # The last sampled token was never fed, so its key and value are not cached.
        fed = (request.prompt[-1], *tokens[:-1]) if tokens else ()
        self._held.go_on(slot, len(request.prompt) - 1, fed)
        self.stats.sampled_tokens += len(tokens)
        log_probs = np.asarray(log_probs, np.float32)
        return Generation(slot, tuple(tokens), log_probs, self._prefilled.pop(slot))

    def _admit_waiting(self) -> None:
        """Prefills what waits, as far as this step may, and starts what is ready."""
        contexts = self._contexts
        for _ in range(self.config.prefill_calls):
            if not self._prefill(contexts):
                break
        ready = [slot for slot, ids in contexts.items() if self._held.shared(slot, ids) == len(ids)]
        if ready:
            requests = [self._waiting.pop(slot) for slot in ready]
            for request in requests:
                self._running[request.slot] = request
                self._partial[request.slot] = ([], [])
                # What lay behind is overwritten from now on.
                self._held.go_on(request.slot, len(contexts.pop(request.slot)), ())
            self._start(requests)

    def _prefill(self, contexts: Mapping[int, Int[np.ndarray, " token"]]) -> bool:
        """One prefill call: computes a chunk for some of the slots.

        Args:
          contexts: what slots are to hold.

        Returns:
          Whether anything was left to do.
        """
        missing = self._plan.missing(contexts)
        while (copies := self._plan.copies(missing)).rows:
            self._copy(copies)
            missing = self._plan.missing(contexts)
        chunks = self._plan.chunks(missing)
        if chunks.rows:
            self._prefill_chunk(chunks)
        return bool(chunks.rows)

    def _copy(self, call: Call) -> None:
        """One call that takes over contexts which other slots hold whole."""
        for item in call.rows.values():
            self.stats.copied_tokens += item.start - self._held.shared(item.slot, item.context)
            self._held.hold(item.slot, item.context)
        sources, slots = self._plan.places(call)
        self._cache = decoding.copy(
            self._cache, sources, slots, shards=self._plan.shards,
            parts=self.config.parts(max(item.start for item in call.rows.values())),
        )  # fmt: skip

    def _prefill_chunk(self, call: Call) -> None:
        length = self.config.max_length
        size = self.config.bucket(max(item.count for item in call.rows.values()))
        tokens = np.zeros((call.count, size), np.int32)
        positions = np.full((call.count, size), length, np.int32)
        longest = 0
        for row, (_, slot, source, start, context) in call.rows.items():
            end = min(len(context), start + size)
            tokens[row, : end - start] = context[start:end]
            positions[row, : end - start] = np.arange(start, end)
            longest = max(longest, end)
            self.stats.prefilled_tokens += end - start
            if slot in self._prefilled:  # what all slots share belongs to no request
                self._prefilled[slot] += end - start
            if source != slot:
                self.stats.copied_tokens += start - self._held.shared(slot, context)
        sources, slots = (None, None) if call.in_place else self._plan.places(call)
        self._cache = decoding.prefill(
            self._model, self._weights, self._cache, sources, slots, tokens, positions,
            parts=self.config.parts(longest), shards=self._plan.shards,
        )  # fmt: skip
        for _, slot, _, start, context in call.rows.values():
            self._held.hold(slot, context[: start + size])

    def _start(self, requests: Sequence[GenerationRequest]) -> None:
        """Writes the requests' rows into the decode state; one shape for any number."""
        keys = [_key_data(request.key) for request in requests]
        packed = decoding.pack_rows(requests, keys, self.config.slots)
        self._state = decoding.admit(self._state, packed)


def _key_data(key: Key[Array, ""] | UInt32[np.ndarray, " word"]) -> UInt32[np.ndarray, " word"]:
    return key if isinstance(key, np.ndarray) else np.asarray(jax.random.key_data(key))
