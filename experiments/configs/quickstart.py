"""The embedded default: the tiny backbone learns the multi-hop tasks on a laptop.

    python experiments/train.py --config=experiments/configs/quickstart.py --workdir=runs/quickstart

Starts from the warmed-up weights that ship with the package (see
experiments/configs/tiny_warmup.py). Expect J to rise from about 0.3 to above 0.6.
"""

from experiments.configs import tiny


def get_config():
    config = tiny.get_config()
    config.curriculum.schedule = "joint"
    config.curriculum.iterations = (40,)
    return config
