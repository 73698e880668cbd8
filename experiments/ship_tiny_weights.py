"""Puts the warmed-up weights of a run of `configs/tiny_warmup.py` into the package.

python experiments/ship_tiny_weights.py --workdir=runs/tiny_warmup
"""

import jax
from absl import app, logging

from agemem_jax.evaluation.evaluate import read_config
from agemem_jax.models.registry import assets, save_params
from agemem_jax.training import components, train_state
from agemem_jax.training.checkpoints import Checkpoints
from experiments import cli
from experiments.workdir import WORKDIR


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    config = read_config(WORKDIR.value)
    backbone = components.build_backbone(config)
    fresh = train_state.create(
        backbone.config, backbone.params, config.warmup.optimizer,
        keep_reference=False, key=jax.random.key(config.seed),
    )  # fmt: skip
    checkpoints = Checkpoints(f"{WORKDIR.value}/checkpoints", read_only=True)
    info = checkpoints.latest()
    if info is None:
        raise ValueError(f"{checkpoints.directory} holds no checkpoint; train the warm-up first.")
    params = checkpoints.restore_trainable(info, fresh.trainable)
    path = assets(config.backbone) / "warmup.safetensors"
    save_params(path, params)
    logging.info("Wrote the weights of step %d to %s", info.step, path)


if __name__ == "__main__":
    cli.run(main)
