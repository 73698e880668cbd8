"""Makes one HTML file that shows a run or an evaluation: curves, figures, every trajectory.

    python experiments/report.py --workdir=runs/a

`agemem-report --help` tells more; the program is agemem_jax/commands/report.py.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from agemem_jax.commands.report import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    run()
