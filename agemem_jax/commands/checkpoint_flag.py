"""The flag --checkpoint of the programs that read one, in `CHECKPOINT`."""

from absl import flags

CHECKPOINT: flags.FlagHolder[str] = flags.DEFINE_string(
    "checkpoint", "last", "Whose weights after RL: last, best, a step, a phase, or phase/step."
)
