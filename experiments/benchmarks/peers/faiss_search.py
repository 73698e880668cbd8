"""FAISS's exact inner-product index, as JSON on the last line.

python faiss_search.py ENTRIES DIM QUERIES K REPEATS
"""

import json
import os
import sys
import time

import faiss
import numpy as np


def main(entries: int, dim: int, queries: int, k: int, repeats: int) -> None:
    faiss.omp_set_num_threads(os.cpu_count())
    rng = np.random.default_rng(0)

    def unit_vectors(count):
        vectors = rng.standard_normal((count, dim), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    index = faiss.IndexFlatIP(dim)
    index.add(unit_vectors(entries))
    asked = unit_vectors(queries)
    index.search(asked, k)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        index.search(asked, k)
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
