"""Compares methods on held-out tasks: J, MQ, TN and TC with confidence intervals.

    python experiments/evaluate.py --workdir=runs/a --methods=agemem_norl,agemem

`agemem-evaluate --help` tells more; the program is agemem_jax/commands/evaluate.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands.evaluate import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
