"""What a checkpoint is made of, and how it can fail."""

import asyncio
import dataclasses
import json
from typing import Any

import jax
from etils import epath
from jaxtyping import PyTree

from agemem_jax.parallel import processes
from agemem_jax.training.train_state import TrainState

JSON_FILE = "value.json"


class DamagedCheckpoint(Exception):
    """One checkpoint cannot be read back as it was written."""


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """Where one checkpoint is.

    Attributes:
      step: as given to `save`.
      phase: name of the phase that it closes; None inside a phase.
      path: its folder.
    """

    step: int
    phase: str | None
    path: epath.Path

    @property
    def name(self) -> str:
        """Such as "joint/30", "step/20" or "best/20"."""
        return f"{self.phase or self.path.parent.name.removesuffix('s')}/{self.step}"


class SaveFailed(OSError):
    """A checkpoint could not be written: a full disk, a file system that is gone."""


class JsonFile:
    """A JSON value as one file of a checkpoint (Orbax's `StatefulCheckpointable`)."""

    def __init__(self, value: Any = None):
        self.value = value

    async def save(self, directory):
        text = json.dumps(self.value, indent=2)

        async def write():
            folder = await directory.await_creation()
            if processes.is_primary():
                await asyncio.to_thread((folder / JSON_FILE).write_text, text)

        return write()

    async def load(self, directory):
        async def read():
            self.value = json.loads((directory / JSON_FILE).read_text())

        return read()


def split_state(state: TrainState) -> dict[str, PyTree]:
    """The parts that are written; frozen weights come from the backbone's files."""
    rest = {
        "step": state.step,
        "opt_state": state.opt_state,
        "reference": state.reference,
        "key": state.key,
    }
    return {"trainable": state.trainable, "training": rest}


def abstract(tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
        ),
        tree,
    )
