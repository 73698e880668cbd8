"""Turns a checkpoint into a directory that transformers, vLLM and others load.

    python experiments/export.py --workdir=runs/a --output=exported

`agemem-export --help` tells more; the program is agemem_jax/commands/export.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands.export import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
