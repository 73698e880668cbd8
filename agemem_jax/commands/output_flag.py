"""The flag --output of the programs that write one thing, in `OUTPUT`."""

from absl import flags

OUTPUT: flags.FlagHolder[str] = flags.DEFINE_string(
    "output", None, "What to write: the directory of an export, or the HTML file of a report."
)
