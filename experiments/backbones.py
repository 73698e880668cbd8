"""Lists the registered backbones: parameters, memory by dtype, and what is in the cache.

    python experiments/backbones.py

`agemem-backbones --help` tells more; the program is agemem_jax/commands/backbones.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands.backbones import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
