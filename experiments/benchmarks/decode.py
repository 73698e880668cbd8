"""Prefill and decode of SmolLM2-135M: prompt 256, 64 sampled tokens, 1 to 16 slots."""

import jax
import numpy as np

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.rollout.engine import Engine
from agemem_jax.rollout.generation import EngineConfig, GenerationRequest
from experiments.benchmarks import shapes
from experiments.benchmarks.options import Options
from experiments.benchmarks.timing import Case, Timing, measure, products, run_peer

PROMPT, NEW = 256, 64
_NEVER = -1  # a stop token that is never sampled


def run(options: Options) -> list[Case]:
    """Cases of every number of slots, with transformers and llama.cpp as peers."""
    config, weights = shapes.load("smollm2-135m")
    counts = (1, 8, 16)
    peers = _peers(options) if options.peers else {}
    cases = []
    for slots in counts:
        prefill, decode = time_engine(config, weights, slots, options.repeats)
        head = [(slots, config.width, config.vocab_size)]
        needed = [*shapes.layer_products(config, slots), *head]
        limit = products(needed, options.repeats).per(slots, "tokens/s")
        wanted = {16: {"transformers": 2.5, "llama.cpp": 1.2, "limit": 0.6}, 1: {"transformers": 2}}
        cases.append(
            Case(
                f"decode, SmolLM2-135M float32, {slots} slots, prompt {PROMPT}, {NEW} tokens",
                decode, {name: each[slots]["decode"] for name, each in peers.items()}, limit,
                wanted.get(slots, {}), "llama.cpp does not sample" if options.peers else "",
            )
        )  # fmt: skip
        needed = shapes.layer_products(config, slots * PROMPT)
        limit = products(needed, options.repeats).per(slots * PROMPT, "tokens/s")
        wanted = {8: {"llama.cpp": 1.0}}
        cases.append(
            Case(
                f"prefill, SmolLM2-135M float32, {slots} prompts of {PROMPT}",
                prefill, {name: each[slots]["prefill"] for name, each in peers.items()}, limit,
                wanted.get(slots, {}),
            )
        )  # fmt: skip
    return cases


def time_engine(
    config: DecoderConfig,
    weights: Weights,
    slots: int,
    repeats: int,
    prompt: int = PROMPT,
    new: int = NEW,
) -> tuple[Timing, Timing]:
    """Tokens per second of prefill, and of decoding alone."""
    engine = Engine(
        EngineConfig(
            slots=slots, max_length=prompt + new, prefill_rows=slots, prefill_calls=1,
            prefill_buckets=(prompt,), attend_buckets=(), chunk=new, weights=shapes.weights_order(),
        ),
        config, _NEVER,
    )  # fmt: skip
    prompts = np.random.default_rng(0).integers(10, config.vocab_size, (slots, prompt)).tolist()

    def generate(count: int) -> None:
        """Goes on where the slots are."""
        for slot, tokens in enumerate(prompts):
            key = jax.random.key(slot)
            engine.submit(GenerationRequest(slot, tuple(tokens), count, key))
        while engine.pending:
            for done in engine.step():
                prompts[done.slot] += done.token_ids

    first, rest = [], []
    for _ in range(repeats + 1):
        engine.load(weights)
        for tokens in prompts:
            del tokens[prompt:]
        first.append(measure(lambda: generate(1), 1, warmup=0).values[0])
        rest.append(measure(lambda: generate(new - 1), 1, warmup=0).values[0])
    prefill, decode = Timing(tuple(first[1:])), Timing(tuple(rest[1:]))  # the first one compiled
    return prefill.per(slots * prompt, "tokens/s"), decode.per(slots * (new - 1), "tokens/s")


def _peers(options: Options) -> dict[str, dict[int, dict[str, Timing]]]:
    paths = shapes.export_for_peers(options.folder)
    printed = {
        "transformers": run_peer(
            options.environments, "trl", "transformers_decode.py", str(paths["hf"]),
            str(options.repeats),
        ),
        "llama.cpp": run_peer(
            options.environments, "llama_cpp", "llama_cpp_decode.py", str(paths["gguf"]),
            str(options.repeats),
        ),
    }  # fmt: skip
    return {
        name: {
            int(slots): {kind: Timing(tuple(values), "tokens/s") for kind, values in each.items()}
            for slots, each in result.items()
        }
        for name, result in printed.items()
    }
