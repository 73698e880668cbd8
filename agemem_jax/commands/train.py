"""Trains an agent: warm-up on demonstrations, then step-wise GRPO.

    agemem-train --config=quickstart --workdir=runs/a

--config takes a file, too. Any option can be changed by a flag, for instance --config.seed=1.
A run continues from the newest checkpoint in its work directory; the same command starts and
resumes it.

Asked to stop by SIGTERM, Ctrl-C or a notice of maintenance, it saves and ends with status 75.
Several processes run one job: docs/launching.md.
"""

import jax
from absl import app, flags, logging

from agemem_jax import configs
from agemem_jax.commands import accelerator, cli
from agemem_jax.commands.config_flag import CONFIG
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.parallel import processes
from agemem_jax.report.growing import GrowingReport
from agemem_jax.training.configuration import run_config
from agemem_jax.training.interruption import Interruption
from agemem_jax.training.monitoring.profiling import parse_steps
from agemem_jax.training.program import train

_PROFILE = flags.DEFINE_string(
    "profile_steps", None, "Steps of which a trace is written into WORKDIR/profile, such as 5:8, "
    "both included.",
)  # fmt: skip
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes, which Slurm, Cloud TPU or Kubernetes started."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where none did.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator.", 0)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout", 60, "Seconds of silence after which a process counts as dead.", 1
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    if CONFIG.value is None:
        raise app.UsageError(
            f"--config is missing; it names a file, or one of {', '.join(configs.FILES)}."
        )
    profiled = None if _PROFILE.value is None else parse_steps(_PROFILE.value)
    given = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if _DISTRIBUTED.value or any(value is not None for value in given):
        processes.initialize(*given, heartbeat_timeout=_HEARTBEAT.value)
    config = run_config.build(CONFIG.value)
    accelerator.tell_unused_gpu()
    interruption = Interruption()
    with cli.stoppable(interruption):
        if jax.default_backend() == "tpu":
            interruption.watch_maintenance()
        report = GrowingReport(WORKDIR.value).grow
        train(config, WORKDIR.value, interruption, profiled, report)


def run():
    cli.run(main)
