"""What the engine is told and what it answers: configuration, requests, results, counters."""

import dataclasses

import numpy as np
from jaxtyping import Array, Float, Key, UInt32

from agemem_jax.rollout.constraints import Constraint

CACHE_DTYPES = ("float32", "bfloat16")
WEIGHTS = ("as_trained", "stacked", "int8")


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Shapes of the engine; every distinct value is a compilation of its own.

    Attributes:
      slots: generations that run side by side.
      max_length: longest prompt plus response, in tokens; the cache length.
      prefill_rows: slots prefilled by one call, at most; more than there are count as all.
      prefill_fewer_rows: how many rows a call may have instead, ascending, so that few slots
        cost less than the most.
      prefill_buckets: chunk lengths of a prefill, ascending; a longer rest is cut.
      prefill_calls: prefill calls between two decode chunks, so that long prompts hold
        up nothing that decodes.
      attend_buckets: lengths that attention is computed over, ascending; the last
        one is `max_length` whatever is listed. The cache is cut there. On TPU none are
        needed: a kernel reads the cache as far as it is filled.
      decode_rows: how many slots a decode chunk may run, ascending, so that few slots cost
        less than all; all of them is always possible.
      chunk: decode steps between two looks of the host, at most.
      idle_slots: the host looks earlier when so many slots have nothing left to decode;
        it may have more for them. 0 is never: a chunk of known length runs without the host
        asking after each token who is idle. By default 0 on GPUs, where the host asks, else 4.
      overlap: whether the next chunk starts before what finished in the last one is handed
        out, so that the host's work costs the device no time, but a finished slot waits one
        chunk longer for what comes next. It pays where the device is not the host's CPU, and
        is the default there. Tokens do not depend on it.
      cache_dtype: "float32" or "bfloat16"; by default the model's compute dtype.
      weights: "as_trained"; "stacked", a copy whose order suits CPUs and GPUs and their kernels
        (see `models/stacking.py`); or "int8" to sample from rounded matrices: the update's
        `sampling_gap_max` then tells how far log-probabilities moved. By default "stacked" on
        one GPU, else "as_trained".
    """

    slots: int = 16
    max_length: int = 1024
    prefill_rows: int = 8
    prefill_fewer_rows: tuple[int, ...] = ()
    prefill_buckets: tuple[int, ...] = (32, 128)
    prefill_calls: int = 4
    attend_buckets: tuple[int, ...] = (256, 512)
    decode_rows: tuple[int, ...] = ()
    chunk: int = 16
    idle_slots: int | None = None
    overlap: bool | None = None
    cache_dtype: str | None = None
    weights: str | None = None

    def __post_init__(self):
        for name in ("slots", "max_length", "prefill_rows", "prefill_calls", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"engine.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.idle_slots is not None and self.idle_slots < 0:
            raise ValueError(
                f"engine.idle_slots is {self.idle_slots}; it must be 0 (never) or more."
            )
        if self.weights not in (None, *WEIGHTS):
            raise ValueError(
                f"engine.weights is {self.weights!r}; it must be one of {', '.join(WEIGHTS)}, or "
                "None for what suits the device."
            )
        if self.cache_dtype not in (None, *CACHE_DTYPES):
            raise ValueError(
                f"engine.cache_dtype is {self.cache_dtype!r}; it must be one of "
                f"{', '.join(CACHE_DTYPES)}, or None for the model's compute dtype."
            )
        if not self.prefill_buckets:
            raise ValueError("engine.prefill_buckets is empty; it needs one chunk length at least.")
        for name in ("prefill_buckets", "attend_buckets", "prefill_fewer_rows", "decode_rows"):
            sizes = tuple(getattr(self, name))
            if sizes != tuple(sorted(set(sizes))) or sizes and sizes[0] < 1:
                raise ValueError(
                    f"engine.{name} is {sizes}; it must be an ascending list of numbers of 1 or "
                    "more."
                )

    def resolved(self, platform: str, compute_dtype: str, devices: int = 1) -> "EngineConfig":
        """With values for what is None.

        Args:
          platform: of the devices of rollouts: "cpu", "gpu" ("cuda"), or "tpu".
          compute_dtype: of the model.
          devices: how many one engine has.
        """
        on_gpu = platform in ("gpu", "cuda")
        defaults = {
            "idle_slots": 0 if on_gpu else 4,
            "overlap": platform != "cpu",
            "cache_dtype": compute_dtype,
            "weights": "stacked" if on_gpu and devices == 1 else "as_trained",
        }
        missing = {name: new for name, new in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    @property
    def row_counts(self) -> tuple[int, ...]:
        return _up_to(self.slots, self.decode_rows)

    @property
    def prefill_row_counts(self) -> tuple[int, ...]:
        return _up_to(min(self.prefill_rows, self.slots), self.prefill_fewer_rows)

    @property
    def attend_lengths(self) -> tuple[int, ...]:
        return _up_to(self.max_length, self.attend_buckets)

    def bucket(self, length: int) -> int:
        """The chunk length of a prefill that computes `length` tokens, or the first of them."""
        sizes = self.prefill_buckets
        return next((size for size in sizes if length <= size), sizes[-1])

    def parts(self, length: int) -> int:
        """How many parts of the cache hold the first `length` positions."""
        ends = self.attend_lengths
        return next((part for part, end in enumerate(ends, 1) if length <= end), len(ends))


def _up_to(most: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Ascending sizes, of which the last one is `most`."""
    return (*(size for size in sorted(sizes) if 0 < size < most), most)


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """One generation.

    Attributes:
      slot: where it runs.
      prompt: all tokens before the response, at least one.
      max_tokens: limit of the response, the stop token included.
      key: typed random key of this generation; token i is drawn with
        `fold_in(key, i)`, so the result depends on nothing that runs beside it. Its data as
        an array of the host saves reading it from the device.
      step: the generation's key is `fold_in(key, step)`; None is `key` itself.
      temperature: 0 takes the most likely token.
      top_k: only so many of the likeliest tokens may be drawn; 0 is all.
      top_p: only the likeliest tokens that together hold this much probability.
      stop: texts that end the response. They are looked for between chunks; tokens behind
        the one that completes a text are dropped.
      constraint: only tokens that it allows are drawn. While one runs, chunks have one token.
    """

    slot: int
    prompt: tuple[int, ...]
    max_tokens: int
    key: Key[Array, ""] | UInt32[np.ndarray, " word"]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    step: int | None = None
    constraint: Constraint | None = None


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a request gave; ends with a stop token unless a limit or a text cut it.

    `log_probs` are those of the distribution sampled from; at temperature 0, of the
    model's own distribution. `prefilled` counts the prompt's tokens that were computed for it:
    the caches held the others.
    """

    slot: int
    token_ids: tuple[int, ...]
    log_probs: Float[np.ndarray, " token"]
    prefilled: int = 0


@dataclasses.dataclass
class EngineStats:
    """Counters since the engine was made, for metrics and tests.

    `prompt_tokens` counts tokens of all prompts, `prefilled_tokens` those that were
    computed, `copied_tokens` those taken over from another slot; the rest was in the slot
    already. `slot_steps` counts decode steps times the slots that they computed (see
    `decode_rows`), `busy_slot_steps` those that gave a token, `decode_steps` the steps.
    """

    requests: int = 0
    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    copied_tokens: int = 0
    sampled_tokens: int = 0
    decode_steps: int = 0
    slot_steps: int = 0
    busy_slot_steps: int = 0
