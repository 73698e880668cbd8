"""The flag of the binaries that work on a run's directory."""

from absl import flags

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: checkpoints, metrics, reports.", required=True
)
