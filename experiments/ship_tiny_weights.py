"""Puts the warmed-up weights of a run of `configs/tiny_warmup.py` into the package.

python experiments/ship_tiny_weights.py --workdir=runs/tiny_warmup
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

from absl import app, logging

from agemem_jax.commands import cli
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.models.loading import assets
from agemem_jax.models.weight_files import save_params
from agemem_jax.training import components
from agemem_jax.training.configuration.run_record import read_config
from agemem_jax.training.policy import restore_weights


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    config = read_config(WORKDIR.value)
    backbone = components.build_backbone(config)
    params = restore_weights(config, backbone, WORKDIR.value).params
    path = assets(config.backbone) / "warmup.safetensors"
    save_params(path, params)
    logging.info("Wrote %s", path)


if __name__ == "__main__":
    cli.run(main)
