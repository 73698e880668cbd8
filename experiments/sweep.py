"""Compares variants of a configuration, with several seeds each.

    python experiments/sweep.py --workdir=runs/rates --config=quickstart --seeds=0,1,2 \\
        --variant="low: optimizer.learning_rate=1e-4" --variant="high: optimizer.learning_rate=4e-4"

`agemem-sweep --help` tells more; the program is agemem_jax/commands/sweep.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands.sweep import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
