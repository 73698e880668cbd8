"""Weights & Biases: one run of it for a work directory, however often that is taken up again."""

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any, Literal

from etils import epath

from agemem_jax.training.monitoring.sinks.registry import Run, numbers


@dataclasses.dataclass
class WandB:
    """Logs every line by its step; needs the package `wandb`.

    What a run that was killed writes a second time has steps that Weights & Biases knows
    already; it keeps what it had, which is the same.

    Attributes:
      project, entity, name, group: of the run, as `wandb.init` takes them.
      mode: "online", "offline" (written below the work directory, for `wandb sync`), or None
        for what the environment says.
    """

    project: str = "agemem"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None

    def __post_init__(self):
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "metrics.sinks names wandb, and the package wandb is not installed; install "
                "agemem_jax[wandb] (pip install -r requirements-wandb.txt), or leave it out."
            ) from error
        self._wandb = wandb
        self._run: Any = None
        self._about: Run | None = None

    def open(self, run: Run) -> None:
        """Begins the run, or goes on with that of the work directory."""
        self._about = run
        self._begin()

    def _begin(self) -> None:
        folder = epath.Path(self._about.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "wandb_run_id"
        if not path.exists():
            path.write_text(secrets.token_hex(4))
        self._run = self._wandb.init(
            project=self.project, entity=self.entity, group=self.group, mode=self.mode,
            name=self.name or folder.name, id=path.read_text().strip(), resume="allow",
            dir=str(folder), config=dict(self._about.config),
        )  # fmt: skip

    def write(self, step: int, values: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        if self._run is None:  # it could not be reached when the run began
            self._begin()
        self._run.log(numbers(values, timing), step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
