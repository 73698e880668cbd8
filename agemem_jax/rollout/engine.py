"""The generation engine: fixed slots, one KV cache, prefix reuse with rewind.

A continuing episode keeps its slot. Its next prompt is compared with what the slot's
cache holds; the cache is rewound to the longest common token prefix and only the rest
is prefilled, so an append costs its new tokens and an edit costs what lies behind the
edit. Decoding runs on device in chunks; the host looks only between chunks.

Prefill stops one token short of the prompt's end: decoding feeds that last token
first, so the vocabulary projection is never computed for prompt tokens.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.quantisation import quantise_weights
from agemem_jax.rollout import decoding
from agemem_jax.rollout.decoding import DecodeState

WEIGHTS = ("as_trained", "int8")


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Shapes of the engine; every distinct value is a compilation of its own.

    Attributes:
      slots: generations that run side by side.
      max_length: longest prompt plus response, in tokens; the cache length.
      prefill_rows: slots prefilled by one call.
      prefill_buckets: chunk lengths of a prefill, ascending; a longer rest is cut.
      attend_buckets: lengths that attention is computed over, ascending; the last
        one is `max_length` whatever is listed.
      chunk: decode steps between two looks of the host.
      cache_dtype: "float32" or "bfloat16".
      weights: "as_trained", or "int8" to sample from rounded matrices; the update's
        `sampling_gap_max` then tells how far log-probabilities moved.
    """

    slots: int = 16
    max_length: int = 1024
    prefill_rows: int = 8
    prefill_buckets: tuple[int, ...] = (32, 128)
    attend_buckets: tuple[int, ...] = (256, 512)
    chunk: int = 16
    cache_dtype: str = "float32"
    weights: str = "as_trained"

    def __post_init__(self):
        for name in ("slots", "max_length", "prefill_rows", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"engine.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.weights not in WEIGHTS:
            raise ValueError(
                f"engine.weights is {self.weights!r}; it must be one of {', '.join(WEIGHTS)}."
            )
        if not self.prefill_buckets or list(self.prefill_buckets) != sorted(self.prefill_buckets):
            raise ValueError(
                f"engine.prefill_buckets is {self.prefill_buckets}; it must be a non-empty "
                "ascending list of chunk lengths."
            )

    @property
    def attend_lengths(self) -> tuple[int, ...]:
        below = [length for length in sorted(self.attend_buckets) if length < self.max_length]
        return (*below, self.max_length)


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """One generation.

    Attributes:
      slot: where it runs.
      prompt: all tokens before the response, at least one.
      max_tokens: limit of the response, the stop token included.
      key: typed random key of this generation; token i is drawn with
        `fold_in(key, i)`, so the result depends on nothing that runs beside it.
      temperature: 0 takes the most likely token.
    """

    slot: int
    prompt: tuple[int, ...]
    max_tokens: int
    key: Key[Array, ""]
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a request gave; ends with the stop token unless `max_tokens` cut it.

    `log_probs` are those of the distribution sampled from; at temperature 0, of the
    model's own distribution.
    """

    slot: int
    token_ids: tuple[int, ...]
    log_probs: Float[np.ndarray, " token"]


@dataclasses.dataclass
class EngineStats:
    """Counters since the engine was made, for metrics and tests.

    `prompt_tokens` counts tokens of all prompts, `prefilled_tokens` those that were
    computed; the rest came from the cache. `slot_steps` counts slots times decode
    steps, `busy_slot_steps` those that gave a token.
    """

    requests: int = 0
    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    sampled_tokens: int = 0
    slot_steps: int = 0
    busy_slot_steps: int = 0


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    length = min(len(first), len(second))
    differ = np.nonzero(np.asarray(first[:length]) != np.asarray(second[:length]))[0]
    return int(differ[0]) if differ.size else length


class Engine:
    """Runs generations in slots. Holds the cache; all arithmetic is in pure functions.

    Use: `submit` any number of requests, then `step` until nothing is pending. A
    slot takes one request at a time and keeps its cache between requests.
    """

    def __init__(self, config: EngineConfig, model: DecoderConfig, stop_id: int):
        self.config = config
        self.stats = EngineStats()
        self._model = model
        self._stop_id = stop_id
        self._weights: decoder.Weights | None = None
        self._waiting: list[GenerationRequest] = []
        self._running: dict[int, GenerationRequest] = {}
        self._partial: dict[int, tuple[list[int], list[float]]] = {}
        self._cached: list[tuple[int, ...]] = [()] * config.slots
        self._cache: decoder.Cache | None = None
        slots = config.slots
        self._state = DecodeState(
            tokens=jnp.zeros(slots, jnp.int32),
            positions=jnp.zeros(slots, jnp.int32),
            active=jnp.zeros(slots, bool),
            generated=jnp.zeros(slots, jnp.int32),
            limits=jnp.zeros(slots, jnp.int32),
            keys=jax.random.split(jax.random.key(0), slots),
            temperatures=jnp.ones(slots, jnp.float32),
        )

    def load(self, weights: decoder.Weights, shared_prefix: Sequence[int] = ()) -> None:
        """Takes new weights; every cached key and value is forgotten.

        Args:
          weights: what to sample from until the next call.
          shared_prefix: tokens that all prompts start with; computed once here.
        """
        if self._running or self._waiting:
            raise RuntimeError("Engine.load was called while generations are pending.")
        self._weights = quantise_weights(weights) if self.config.weights == "int8" else weights
        if self._cache is None:
            self._cache = decoder.init_cache(
                self._model, self.config.slots, self.config.max_length,
                jnp.dtype(self.config.cache_dtype),
            )  # fmt: skip
        self._cached = [()] * self.config.slots
        if shared_prefix:
            prefix = tuple(shared_prefix)
            self._prefill([(0, prefix, 0)])
            self._cache = decoding.share_prefix(self._cache, length=len(prefix))
            self._cached = [prefix] * self.config.slots

    def release(self) -> None:
        """Frees the cache's memory, for instance during an update."""
        self._cache = None
        self._cached = [()] * self.config.slots

    @property
    def pending(self) -> bool:
        return bool(self._running or self._waiting)

    def submit(self, request: GenerationRequest) -> None:
        """Queues a request; its slot must be idle.

        Raises:
          ValueError: if prompt and response do not fit into the cache.
        """
        if not request.prompt:
            raise ValueError("A generation needs a prompt of at least one token.")
        if len(request.prompt) + request.max_tokens > self.config.max_length:
            raise ValueError(
                f"A prompt of {len(request.prompt)} tokens and a response of up to "
                f"{request.max_tokens} do not fit into engine.max_length = "
                f"{self.config.max_length}; raise it or lower the budgets."
            )
        self._waiting.append(request)

    def step(self) -> list[Generation]:
        """Admits what waits, decodes one chunk, and returns what finished."""
        if self._cache is None:
            raise RuntimeError("Engine.step was called before Engine.load.")
        self._admit_waiting()
        if not self._running:
            return []
        longest = max(
            len(request.prompt) + len(self._partial[slot][0])
            for slot, request in self._running.items()
        )
        self._cache, self._state, output = decoding.decode_chunk(
            self._model, self._weights, self._cache, self._state,
            attend_length=self._attend_length(longest + self.config.chunk),
            chunk=self.config.chunk, stop_id=self._stop_id,
        )  # fmt: skip
        tokens, log_probs, count = jax.device_get(output)
        self.stats.slot_steps += int(count.max()) * self.config.slots
        self.stats.busy_slot_steps += int(count.sum())
        finished = []
        for slot, request in sorted(self._running.items()):
            partial_tokens, partial_log_probs = self._partial[slot]
            partial_tokens.extend(tokens[slot, : count[slot]].tolist())
            partial_log_probs.extend(log_probs[slot, : count[slot]].tolist())
            done = partial_tokens[-1] == self._stop_id
            if done or len(partial_tokens) >= request.max_tokens:
                finished.append(self._finish(slot))
        return finished

    def _finish(self, slot: int) -> Generation:
        request = self._running.pop(slot)
        tokens, log_probs = self._partial.pop(slot)
        # The last sampled token was never fed, so its key and value are not cached.
        self._cached[slot] = request.prompt + tuple(tokens[:-1])
        self.stats.sampled_tokens += len(tokens)
        return Generation(slot, tuple(tokens), np.asarray(log_probs, np.float32))

    def _admit_waiting(self) -> None:
        if not self._waiting:
            return
        work = []
        for request in self._waiting:
            context = request.prompt[:-1]
            reused = common_prefix(self._cached[request.slot], context)
            work.append((request.slot, context, reused))
            self._running[request.slot] = request
            self._partial[request.slot] = ([], [])
            self._cached[request.slot] = context
            self.stats.requests += 1
            self.stats.prompt_tokens += len(request.prompt)
        self._prefill(work)
        self._start(self._waiting)
        self._waiting = []

    def _start(self, requests: Sequence[GenerationRequest]) -> None:
        """Writes the requests' rows into the decode state; one shape for any number."""
        size = self.config.slots
        pad = size - len(requests)

        def column(values, dtype):
            return jnp.asarray(np.array([*values, *([0] * pad)], dtype))

        keys = [request.key for request in requests]
        rows = DecodeState(
            tokens=column((r.prompt[-1] for r in requests), np.int32),
            positions=column((len(r.prompt) - 1 for r in requests), np.int32),
            active=jnp.ones(size, bool),
            generated=jnp.zeros(size, jnp.int32),
            limits=column((r.max_tokens for r in requests), np.int32),
            keys=jnp.stack([*keys, *([keys[0]] * pad)]),
            temperatures=column((r.temperature for r in requests), np.float32),
        )
        slots = np.array([*(r.slot for r in requests), *([size] * pad)], np.int32)
        self._state = decoding.admit(self._state, jnp.asarray(slots), rows)

    def _prefill(self, work: Sequence[tuple[int, tuple[int, ...], int]]) -> None:
        """Computes `tokens[start:]` for every (slot, tokens, start), batched by length."""
        todo = [(slot, tokens, start) for slot, tokens, start in work if start < len(tokens)]
        self.stats.prefilled_tokens += sum(len(tokens) - start for _, tokens, start in todo)
        while todo:
            todo.sort(key=lambda item: (len(item[1]) - item[2], item[0]))
            batch, todo = todo[: self.config.prefill_rows], todo[self.config.prefill_rows :]
            size = self._bucket(max(len(tokens) - start for _, tokens, start in batch))
            rest = self._prefill_batch(batch, size)
            todo.extend(rest)

    def _prefill_batch(self, batch, size: int):
        rows, length = self.config.prefill_rows, self.config.max_length
        slots = np.full(rows, self.config.slots, np.int32)
        tokens = np.zeros((rows, size), np.int32)
        positions = np.full((rows, size), length, np.int32)
        rest, longest = [], 0
        for row, (slot, context, start) in enumerate(batch):
            end = min(len(context), start + size)
            slots[row] = slot
            tokens[row, : end - start] = context[start:end]
            positions[row, : end - start] = np.arange(start, end)
            longest = max(longest, end)
            if end < len(context):
                rest.append((slot, context, end))
        self._cache = decoding.prefill(
            self._model, self._weights, self._cache, jnp.asarray(slots), jnp.asarray(tokens),
            jnp.asarray(positions), attend_length=self._attend_length(longest),
        )  # fmt: skip
        return rest

    def _bucket(self, length: int) -> int:
        for bucket in self.config.prefill_buckets:
            if length <= bucket:
                return bucket
        return self.config.prefill_buckets[-1]

    def _attend_length(self, length: int) -> int:
        for bucket in self.config.attend_lengths:
            if length <= bucket:
                return bucket
        return self.config.max_length
