"""What the device does at most: copies, matrix products, and how long a program takes to be."""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from agemem_jax.planning import chips
from experiments.benchmarks.accelerator.sizes import Sizes
from experiments.benchmarks.timing import Case, Timing, measure

_CALLS = 10  # in a row, so that the host's part of each costs the device nothing


def run(sizes: Sizes, repeats: int) -> Iterator[Case]:
    """Cases of copy bandwidth, of products, and of a program that does next to nothing."""
    yield Case(
        f"copy of {sizes.copied / 1e9:.3g} GB in bfloat16, bytes read and written",
        copy_rate(sizes, repeats),
    )
    published = chips.peak_flops(jax.devices()[0].device_kind)
    for side in sizes.products:
        left = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
        multiply = jax.jit(jnp.matmul)
        seconds = measure(lambda: multiply(left, left), repeats, calls=_CALLS)  # noqa: B023
        peak = {} if published is None else {"published": Timing((published / 1e12,), "TFLOP/s")}
        yield Case(
            f"product of two matrices of {side} x {side} in bfloat16",
            seconds.per(2 * side**3 / 1e12, "TFLOP/s"), peak,
        )  # fmt: skip
    yield Case(
        "compiling a program of one addition",
        Timing(tuple(_compile(number) for number in range(repeats + 1))[1:]),
    )


def copy_rate(sizes: Sizes, repeats: int) -> Timing:
    """GB/s of reading a large array and writing another."""
    array = jnp.ones(sizes.copied // 2, jnp.bfloat16)
    negate = jax.jit(jnp.negative)
    seconds = measure(lambda: negate(array), repeats, calls=_CALLS)
    return seconds.per(2 * array.nbytes / 1e9, "GB/s")


def _compile(number: int) -> float:
    """Seconds for a program that was never compiled before."""
    lowered = jax.jit(lambda x: x + (time.time_ns() % 2**20 + number)).lower(jnp.zeros(8))
    begun = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - begun
