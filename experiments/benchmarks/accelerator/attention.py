"""Attention along packed rows: a causal chain, and a forest of rollouts behind one prompt."""

import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from agemem_jax.models import backends, flops
from agemem_jax.models.attention import Packing, Scoring
from agemem_jax.models.backends.plain import Plain
from experiments.benchmarks.accelerator.sizes import Sizes
from experiments.benchmarks.timing import Case, Timing, interleaved

ROLLOUTS = 8
_CALLS = 5
_WANTED = 1 / 1.5
_PARTS = ("forward", "with gradient")


def run(sizes: Sizes, repeats: int) -> Iterator[Case]:
    """Cases of a chain beside cuDNN, and of a forest beside its share of the chain's pairs."""
    backend = backends.get("auto")
    inputs = draw(sizes)
    shape = (
        f"{sizes.row} tokens, {sizes.heads} / {sizes.kv_heads} heads of {sizes.head_dim}, bfloat16"
    )
    chain, pairs = _chain(sizes)
    forest, seen = make_forest(sizes)
    functions = {
        "chain": along(backend, sizes, chain), "forest": along(backend, sizes, forest)
    }  # fmt: skip
    if jax.default_backend() == "gpu":
        functions["cuDNN"] = _by_cudnn
    for part in _PARTS:
        timings, notes = _time(functions, part, inputs, repeats)
        cudnn = {"cuDNN": timings["cuDNN"]} if "cuDNN" in timings else {}
        yield Case(
            f"attention, causal chain of {shape}: {part}", timings["chain"], cudnn,
            wanted={"cuDNN": _WANTED}, note="; ".join(notes),
        )  # fmt: skip
        share = "the chain's time by the pairs that are seen"
        by_pairs = Timing(tuple(seen / pairs * each for each in timings["chain"].values), "ms")
        yield Case(
            f"attention, {ROLLOUTS} rollouts behind a prompt of {sizes.prompt_of_row}, {shape}: "
            f"{part}",
            timings["forest"], {share: by_pairs} | cudnn, wanted={share: _WANTED},
            note=f"{seen / pairs:.2f} of the chain's pairs are seen; cuDNN computes the chain",
        )  # fmt: skip


def draw(sizes: Sizes) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, keys and values of one row, as backends take them."""
    keys = jax.random.split(jax.random.key(0), 3)
    query = jax.random.normal(keys[0], (1, sizes.row, sizes.heads, sizes.head_dim), jnp.bfloat16)
    held = [
        jax.random.normal(key, (1, sizes.kv_heads, sizes.row, sizes.head_dim), jnp.bfloat16)
        for key in keys[1:]
    ]
    return query, *held


def make_forest(sizes: Sizes) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """`visible_to` and positions of rollouts behind one prompt, and the pairs they see."""
    prompt = sizes.prompt_of_row
    length = (sizes.row - prompt) // ROLLOUTS
    starts = prompt + length * np.arange(ROLLOUTS)
    visible_to = np.full(sizes.row, sizes.row, np.int32)
    visible_to[prompt:] = np.repeat(starts + length, length)
    positions = np.arange(sizes.row, dtype=np.int32)
    positions[prompt:] -= np.repeat(starts - prompt, length).astype(np.int32)
    pairs = flops.causal_pairs(prompt) + ROLLOUTS * flops.causal_pairs(length, prompt)
    return (visible_to[None], positions[None]), pairs


def _chain(sizes: Sizes) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    row = np.arange(sizes.row, dtype=np.int32)[None]
    return (np.full_like(row, sizes.row), row), flops.causal_pairs(sizes.row)


def along(backend: Plain, sizes: Sizes, forest: tuple[np.ndarray, np.ndarray]) -> Callable:
    """A backend's attention along the paths of a row, as a function of query, keys and values."""
    visible_to, positions = (jnp.asarray(each) for each in forest)
    packing = Packing(visible_to, jnp.zeros(visible_to.shape, bool))
    scoring = Scoring(sizes.head_dim**-0.5)

    def attend(query, keys, values):
        return backend.attend_packed(query, keys, values, positions, packing, None, scoring)

    return attend


def with_gradient(attend: Callable) -> Callable:
    """The gradients of a sum of squares."""

    def total(query, keys, values):
        return jnp.sum(attend(query, keys, values).astype(jnp.float32) ** 2)

    return jax.grad(total, argnums=(0, 1, 2))


def _by_cudnn(query, keys, values):
    return jax.nn.dot_product_attention(
        query, keys.swapaxes(1, 2), values.swapaxes(1, 2), is_causal=True, implementation="cudnn"
    )


def _time(
    functions: dict[str, Callable], part: str, inputs, repeats: int
) -> tuple[dict[str, Timing], list[str]]:
    """Milliseconds of each function, and what there is to know of first calls."""
    compiled, notes = {}, []
    for name, function in functions.items():
        run_it = jax.jit(function if part == _PARTS[0] else with_gradient(function))
        begun = time.perf_counter()
        try:
            jax.block_until_ready(run_it(*inputs))
        except Exception as error:  # cuDNN's; ours are worth having without it
            if name != "cuDNN":
                raise
            notes.append(f"cuDNN: {str(error)[:200]}")
            continue
        notes.append(f"{name}: first call {time.perf_counter() - begun:.1f} s")
        compiled[name] = functools.partial(run_it, *inputs)
    seconds = interleaved(compiled, repeats, calls=_CALLS)
    timings = {
        name: Timing(tuple(1e3 * value for value in each.values), "ms")
        for name, each in seconds.items()
    }
    return timings, notes
