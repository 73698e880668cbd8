"""Fetches published weights ahead of a run.

    python experiments/fetch_weights.py [--names=smollm2-135m,all-minilm-l6-v2]

`agemem-fetch --help` tells more; the program is agemem_jax/commands/fetch.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands.fetch import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
