"""The embedded default: the tiny backbone learns the multi-hop tasks on a laptop.

    python experiments/train.py --config=experiments/configs/quickstart.py --workdir=runs/quickstart

Starts from the warmed-up weights that ship with the package (see
experiments/configs/tiny_warmup.py). Expect J on held-out tasks to rise from about 0.1 to
about 0.4, and the memory quality MQ with it; docs/results.md has the figures.
"""

from experiments.configs import tiny

ITERATIONS = 30


def get_config():
    config = tiny.get_config()
    config.curriculum.schedule = "joint"
    config.curriculum.iterations = (ITERATIONS,)
    # Twice this rate breaks the response format within a few iterations.
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 4
    config.optimizer.schedule = "cosine"
    config.optimizer.total_steps = ITERATIONS
    return config
