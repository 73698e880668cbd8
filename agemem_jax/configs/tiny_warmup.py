"""Makes the warmed-up weights of the tiny backbone, from nothing.

    python experiments/train.py \\
        --config=experiments/configs/tiny_warmup.py --workdir=runs/tiny_warmup
    python experiments/ship_tiny_weights.py --workdir=runs/tiny_warmup

puts them into the package, after half an hour on two cores. They were made in two rounds;
the second starts from what the first shipped, on other demonstrations:

    python experiments/train.py \\
        --config=experiments/configs/tiny_warmup.py:again --workdir=runs/tiny_warmup_again
    python experiments/ship_tiny_weights.py --workdir=runs/tiny_warmup_again
"""

from agemem_jax.configs import tiny


def get_config(round: str = "first"):
    config = tiny.get_config()
    if round == "first":
        steps, peak = 1900, 2e-3
        config.model.init = "random"
        config.warmup.drill.repeat_steps = 750
        config.warmup.drill.recall_steps = 150
        config.warmup.episodes = 8000
    elif round == "again":
        steps, peak = 1300, 1.5e-3
        config.seed = 1
        config.warmup.episodes = 12_000
    else:
        raise ValueError(f"The round is {round!r}; it must be 'first' or 'again'.")
    config.warmup.steps = steps
    config.warmup.batch = 16
    # Decisions are left to reinforcement learning; names should be copied without fault.
    config.warmup.imperfection.wrong_answer = 0.0
    config.warmup.imperfection.broken_format = 0.01
    config.warmup.imperfection.store_noise = 0.1
    config.warmup.optimizer.learning_rate = peak
    config.warmup.optimizer.warmup_steps = 100
    config.warmup.optimizer.schedule = "cosine"
    config.warmup.optimizer.total_steps = steps
    config.curriculum.iterations = (0,)
    config.packing.max_microbatches = 16
    config.curriculum.checkpoint_every = 100
    return config
