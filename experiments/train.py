"""Trains an agent: warm-up on demonstrations, then step-wise GRPO.

    python experiments/train.py --config=experiments/configs/quickstart.py --workdir=runs/a

Any option can be changed by a flag, for instance --config.seed=1. A run continues from
the newest checkpoint in its work directory; the same command starts and resumes it.
"""

from absl import app, flags, logging
from ml_collections import config_flags

from agemem_jax.training import run_config
from agemem_jax.training.trainer import Trainer, write_config
from experiments import cli
from experiments.workdir import WORKDIR

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; see experiments/configs.")
flags.mark_flag_as_required("config")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    config = run_config.build(_CONFIG.value)
    write_config(config, WORKDIR.value)
    Trainer(config, WORKDIR.value).run()


if __name__ == "__main__":
    cli.run(main)
