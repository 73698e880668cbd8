"""Exact search in long-term memory: 64 queries, 384 dimensions, against FAISS's flat index."""

import jax
import jax.numpy as jnp
import numpy as np

from agemem_jax.memory import bank
from experiments.benchmarks.options import Options
from experiments.benchmarks.timing import Case, Timing, measure, products, run_peer

DIM, QUERIES, K = 384, 64, 5
SIZES = {4096: 1.0, 100_000: 4.0}


def run(options: Options) -> list[Case]:
    """One case for each size of the bank."""
    cases = []
    for entries, wanted in SIZES.items():
        ours = time_search(entries, 3 * options.repeats)
        peers = {}
        if options.peers:
            printed = run_peer(
                options.environments, "faiss", "faiss_search.py", str(entries), str(DIM),
                str(QUERIES), str(K), str(3 * options.repeats),
            )  # fmt: skip
            peers["FAISS FlatIP"] = Timing(tuple(printed["seconds"]))
        limit = products([(QUERIES, DIM, entries)], options.repeats)
        cases.append(
            Case(
                f"top {K} of {entries} entries, {QUERIES} queries", ours, peers, limit,
                dict.fromkeys(peers, wanted),
            )
        )  # fmt: skip
    return cases


def time_search(entries: int, repeats: int) -> Timing:
    """Seconds for all queries together."""
    held, queries = (
        jnp.asarray(_unit_vectors(n, seed)) for n, seed in ((entries, 0), (QUERIES, 1))
    )
    valid = jnp.ones(entries, bool)
    return measure(lambda: bank.search(held, valid, queries, k=K), repeats)


def _unit_vectors(count: int, seed: int) -> np.ndarray:
    vectors = np.asarray(jax.random.normal(jax.random.key(seed), (count, DIM)))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
