"""Makes one HTML file that shows a run or an evaluation: curves, figures, every trajectory.

    agemem-report --workdir=runs/a

Reads what is in the work directory of a training run, an evaluation or both, finished or not, and
writes report.html there, or where --output says, with the figures as PNG in figures/ beside it.
The file needs no network and nothing else: it can be sent and kept. How to read it:
docs/report.md.

Training writes the report while it goes on, and evaluations when they end.
"""

import rich
from absl import app, flags

from agemem_jax.commands import cli
from agemem_jax.commands.output_flag import OUTPUT
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.report.page import DEFAULT, Limits
from agemem_jax.report.write import write_report

_TRAJECTORIES = flags.DEFINE_integer(
    "trajectories", DEFAULT.trajectories, "At most so many are in it, evenly from all.", 0
)
_MEGABYTES = flags.DEFINE_float(
    "megabytes", DEFAULT.megabytes, "That the trajectories take at most, packed.", 0.1
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    limits = Limits(_TRAJECTORIES.value, _MEGABYTES.value)
    path = write_report(WORKDIR.value, OUTPUT.value, limits)
    rich.print(f"Wrote {path} ({path.stat().length / 1e6:.1f} MB)")


def run():
    cli.run(main)
