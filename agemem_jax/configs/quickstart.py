"""The embedded default: the tiny backbone learns the multi-hop tasks on a laptop.

    python experiments/train.py --config=experiments/configs/quickstart.py --workdir=runs/quickstart

Starts from the warmed-up weights that ship with the package (see
experiments/configs/tiny_warmup.py). Expect J on held-out tasks to rise from 8 % to 30 or 45 %,
by seed, and the memory quality MQ from 37 % to 55 or 70 %; docs/results.md has the table.
"""

from agemem_jax.configs import tiny


def get_config():
    config = tiny.get_config()
    config.curriculum.schedule = "joint"
    config.curriculum.iterations = (30,)
    # Twice this rate breaks the response format within a few iterations.
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 4
    config.optimizer.schedule = "cosine"
    config.samples.every = 5  # to look at, in report.html
    return config
