"""What every suite of the benchmark is told."""

import dataclasses
import pathlib
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a benchmark run.

    Attributes:
      repeats: measurements of each thing, warm-up not counted.
      peers: whether the peers run as well, one after the other.
      environments: where the peers' virtual environments are (launch/peers.sh).
      folder: for models and checkpoints that a suite writes.
      output: where the report goes, for pictures beside it.
      steps: names of the steps that `grpo_step` takes; all, when empty.
      hotpotqa: a JSON file of HotpotQA's rows, for episodes on its questions, or None.
      parts: what `accelerator` measures; all, when empty.
      budget: seconds that `accelerator` takes at most; what no longer fits is left out.
    """

    repeats: int
    peers: bool
    environments: pathlib.Path
    folder: pathlib.Path
    output: pathlib.Path
    steps: Sequence[str] = ()
    hotpotqa: pathlib.Path | None = None
    parts: Sequence[str] = ()
    budget: float = 600.0
