"""The training program as one call: what stands in a work directory decides what is left to do."""

import os
from collections.abc import Callable

from absl import logging
from etils import epath

from agemem_jax.training import curriculum
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.checkpoints.position import Position
from agemem_jax.training.configuration import run_record
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.interruption import Interruption
from agemem_jax.training.trainer import Trainer


def train(
    config: RunConfig,
    workdir: str | os.PathLike,
    interruption: Interruption | None = None,
    profiled: tuple[int, int] | None = None,
    report: Callable[[bool], None] | None = None,
) -> None:
    """Trains `config` in `workdir` from where it stands; says so where it is finished.

    `profiled` are the first and the last step of which a trace is written; `report` is called as
    `Trainer` says.

    Raises:
      ValueError: the run in `workdir` is one of another configuration, or cannot be taken up;
        nothing was loaded or written then.
      Interrupted, SaveFailed, TrainingFault: see `Trainer.run`.
    """
    run_record.check(config, workdir)
    run_record.check_folder(workdir)
    phases = curriculum.phases(config)
    if not phases:
        raise ValueError(
            "There is nothing to train: curriculum.iterations and warmup.steps are all 0."
        )
    folder = epath.Path(workdir) / "checkpoints"
    record = Checkpoints(folder, read_only=True, config=config).position()
    if record is not None:
        position = Position.from_record(record, phases)
        if position.phase(phases) is None:
            done = ", ".join(f"{name} {count}" for name, count in position.ended.items())
            logging.info(
                "The run in %s is finished: all iterations are done (%s). More in "
                "curriculum.iterations continue it.", workdir, done,
            )  # fmt: skip
            return
    Trainer(config, workdir, interruption, profiled, report).run()
