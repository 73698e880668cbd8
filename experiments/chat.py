"""Talks with an agent in the terminal, and shows what it remembers.

    python experiments/chat.py --workdir=runs/quickstart --memory=memories.db --user=ana

`agemem-chat --help` tells more; the program is agemem_jax/commands/chat.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands.chat import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
