"""Trains, evaluates and renders the paper's tables and figures.

    python experiments/reproduce.py --config=quickstart --workdir=runs/paper --tasks=100

`agemem-reproduce --help` tells more; the program is agemem_jax/commands/reproduce.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands.reproduce import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
