"""Trains an agent: warm-up on demonstrations, then step-wise GRPO.

    python experiments/train.py --config=experiments/configs/quickstart.py --workdir=runs/a

`agemem-train --help` tells more; the program is agemem_jax/commands/train.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands.train import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
