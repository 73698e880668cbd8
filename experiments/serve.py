"""Serves a backbone or a trained policy by OpenAI's interfaces, to many clients at once.

    python experiments/serve.py --backbone=smollm2-135m

`agemem-serve --help` tells more; the program is agemem_jax/commands/serve.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands.serve import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
