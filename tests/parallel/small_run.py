"""Runs a small training job and writes its losses and parameters: `small_run.py SETTINGS`.

SETTINGS is JSON: `model` (a directory), `workdir`, `output`, `meshes` as [data, fsdp, tensor]
or null for one device; `remat`, with which layers run in a loop; of several processes
`coordinator`, `count` and `index`; and `stop_at`, the step at which somebody asks the run to
stop.
"""

import json
import pathlib
import sys

import flax.traverse_util
import jax
import numpy as np
from jax.experimental import multihost_utils

from agemem_jax.commands import cli
from agemem_jax.configs import tiny
from agemem_jax.parallel import processes
from agemem_jax.training import trainer as trainer_lib
from agemem_jax.training.configuration import run_config
from agemem_jax.training.interruption import Interrupted, Interruption
from agemem_jax.training.monitoring.metrics import read_metrics
from agemem_jax.training.trainer import Trainer


def small_config(model: str, mesh: list[int] | None, remat: bool = False) -> run_config.RunConfig:
    """One step of warm-up and two GRPO iterations of 2 tasks x 4 rollouts."""
    config = tiny.get_config()
    config.backbone = model
    config.model.remat = remat
    config.tasks.options.max_messages = 3
    config.engine.slots = 8
    config.engine.prefill_rows = 8
    config.engine.prefill_buckets = (64,)
    config.engine.attend_buckets = ()
    config.engine.decode_rows = ()
    config.packing.row_lengths = (1024,)
    config.packing.rows = 8
    config.packing.max_microbatches = 4
    config.warmup.steps = 1
    config.warmup.episodes = 8
    config.warmup.batch = 8
    config.curriculum.schedule = "joint"
    config.curriculum.iterations = (2,)
    config.curriculum.tasks_per_iteration = 2
    config.curriculum.checkpoint_every = 1
    config.grpo.group_size = 4
    # Adam makes whole steps of rounding errors, where a gradient is nothing else, unless its
    # epsilon lies above them.
    config.optimizer.eps = config.warmup.optimizer.eps = 1e-6
    if mesh is not None:
        config.mesh.data, config.mesh.fsdp, config.mesh.tensor = mesh
        config.mesh.rollout_tensor = min(mesh[2], len(jax.local_devices()))
    return run_config.build(config)


class StopAt(Interruption):
    """Asks when a step is reached."""

    def __init__(self, step: int | None):
        super().__init__()
        self.step, self.trainer = step, None

    @property
    def asked(self) -> bool:
        return self.step is not None and self.trainer.position.step >= self.step


def main() -> None:
    settings = json.loads(sys.argv[1])
    if "coordinator" in settings:
        processes.initialize(
            settings["coordinator"], settings["count"], settings["index"], heartbeat_timeout=30
        )
    cli.keep_compiled_programs()
    for number, mesh in enumerate(settings["meshes"]):
        if mesh is None:  # as if there were one device
            trainer_lib.make_mesh = trainer_lib.make_rollout_mesh = lambda config: None
        workdir = f"{settings['workdir']}/{number}"
        interruption = StopAt(settings.get("stop_at"))
        config = small_config(settings["model"], mesh, settings.get("remat", False))
        trainer = Trainer(config, workdir, interruption)
        interruption.trainer = trainer
        try:
            trainer.run()
        except Interrupted:
            continue
        params = multihost_utils.process_allgather(trainer.state.trainable, tiled=True)
        if processes.is_primary():
            lines = read_metrics(f"{workdir}/metrics.jsonl")
            flat = flax.traverse_util.flatten_dict(params, sep="/")
            np.savez(f"{settings['output']}-{number}.npz", **flat)
            pathlib.Path(f"{settings['output']}-{number}.json").write_text(json.dumps(lines))


if __name__ == "__main__":
    main()
