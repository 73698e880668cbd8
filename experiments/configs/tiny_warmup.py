"""Makes the warmed-up weights of the tiny backbone, from nothing.

    python experiments/train.py \\
        --config=experiments/configs/tiny_warmup.py --workdir=runs/tiny_warmup

then `python experiments/ship_tiny_weights.py --workdir=runs/tiny_warmup` puts them into
the package.
"""

from experiments.configs import tiny

STEPS = 1900


def get_config():
    config = tiny.get_config()
    config.model.init = "random"
    config.warmup.steps = STEPS
    config.warmup.episodes = 8000
    config.warmup.batch = 16
    config.warmup.drill.repeat_steps = 750
    config.warmup.drill.recall_steps = 150
    config.warmup.optimizer.learning_rate = 2e-3
    config.warmup.optimizer.warmup_steps = 100
    config.warmup.optimizer.schedule = "cosine"
    config.warmup.optimizer.total_steps = STEPS
    config.curriculum.iterations = (0,)
    config.packing.max_microbatches = 16
    config.curriculum.checkpoint_every = 100
    return config
