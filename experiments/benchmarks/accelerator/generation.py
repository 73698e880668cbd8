"""Prefill and decoding: tokens per second, beside what memory and products allow."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import EngineConfig, GenerationRequest
from experiments.benchmarks import shapes
from experiments.benchmarks.accelerator import limits
from experiments.benchmarks.accelerator.sizes import Sizes
from experiments.benchmarks.timing import Case, Timing, products

_NEVER = -1  # a stop token that is never sampled
_PREFILL_ROWS = 32
PEER = "transformers"


def run(sizes: Sizes, repeats: int) -> Iterator[Case]:
    """Cases of every number of slots."""
    config = sizes.model
    weights = random_weights(config)
    rate = limits.copy_rate(sizes, repeats)
    for slots in sizes.slots:
        prefill, decode, first = _time(config, weights, sizes, slots, repeats)
        read = bytes_of_step(config, weights, slots, sizes.prompt + sizes.new / 2)
        limit = Timing(tuple(slots * 1e9 * value / read for value in rate.values), "tokens/s")
        yield Case(
            decode_name(sizes, slots), decode, limit=limit, wanted={"limit": 0.6, PEER: 15.0},
            note=f"{1e3 * slots / decode.median:.3g} ms a token of all slots; the limit reads "
            f"{read / 1e9:.3g} GB of weights and caches at the rate of a copy",
        )  # fmt: skip
        yield first_time(decode_name(sizes, slots), first)
        needed = shapes.layer_products(config, min(slots, _PREFILL_ROWS) * sizes.prompt)
        one = products(needed[: len(needed) // config.num_layers], repeats, jnp.bfloat16)
        tokens = min(slots, _PREFILL_ROWS) * sizes.prompt / config.num_layers
        yield Case(
            prefill_name(sizes, slots), prefill, limit=one.per(tokens, "tokens/s"),
            note="the limit is the matrix products of the layers alone",
        )  # fmt: skip


def first_time(name: str, seconds: float) -> Case:
    """What something took when it had not been compiled."""
    return Case(f"{name}: the first time, compiling included", Timing((seconds,)))


def decode_name(sizes: Sizes, slots: int) -> str:
    return f"decode, {sizes.model_name}, bfloat16, {slots} slots, prompt {sizes.prompt}"


def prefill_name(sizes: Sizes, slots: int) -> str:
    return f"prefill, {sizes.model_name}, bfloat16, {slots} prompts of {sizes.prompt}"


def random_weights(config: DecoderConfig) -> Weights:
    """As rollouts read them: in the compute dtype."""
    params = decoder.init_params(config, jax.random.key(0))
    return Weights(decoder.in_compute_dtype(config, params))


def bytes_of_step(config: DecoderConfig, weights: Weights, slots: int, filled: float) -> float:
    """What a decoded token of all slots has to read: all weights once, and the caches.

    Args:
      config: of the decoder.
      weights: in the dtypes that they are read in.
      slots: that decode.
      filled: tokens that each cache holds.
    """
    read = sum(leaf.nbytes for leaf in jax.tree.leaves(weights.params))
    if not config.tied_embeddings:  # a few rows of the table, and the output's matrix whole
        read -= 2 * config.vocab_size * config.width
    token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 2
    return read + slots * filled * token


def engine_config(sizes: Sizes, slots: int) -> EngineConfig:
    """One length of everything, a multiple of what kernels take at full sizes."""
    return EngineConfig(
        slots=slots, max_length=sizes.prompt + sizes.new, prefill_rows=min(slots, _PREFILL_ROWS),
        prefill_calls=slots, prefill_buckets=(sizes.prompt,), attend_buckets=(), chunk=sizes.chunk,
    )  # fmt: skip


def _time(
    config: DecoderConfig, weights: Weights, sizes: Sizes, slots: int, repeats: int
) -> tuple[Timing, Timing, float]:
    """Tokens per second of prefill and of decoding alone, and seconds of the first rollout."""
    engine = Engine(engine_config(sizes, slots), config, _NEVER)
    size = (slots, sizes.prompt)
    starts = np.random.default_rng(0).integers(10, config.vocab_size, size).tolist()
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), slots)))
    prompts: list[list[int]] = []

    def generate(count: int) -> float:
        """Seconds in which every slot goes on for `count` tokens, whole chunks."""
        begun = time.perf_counter()
        for slot, tokens in enumerate(prompts):
            engine.submit(GenerationRequest(slot, tuple(tokens), count, keys[slot]))
        while engine.pending:
            for done in engine.step():
                prompts[done.slot] += done.token_ids
        return time.perf_counter() - begun

    first, rest, chunks = [], [], sizes.new // sizes.chunk - 1
    for _ in range(repeats + 1):
        engine.load(weights)
        prompts[:] = [list(tokens) for tokens in starts]
        first.append(generate(sizes.chunk))
        rest.append(generate(chunks * sizes.chunk))
    measured = list(zip(first, rest, strict=True))[1:]  # the first one compiled
    alone = Timing(tuple(max(a - b / chunks, 1e-9) for a, b in measured))
    decode = Timing(tuple(b for _, b in measured))
    return (
        alone.per(slots * sizes.prompt, "tokens/s"),
        decode.per(slots * chunks * sizes.chunk, "tokens/s"),
        first[0] + rest[0],
    )
