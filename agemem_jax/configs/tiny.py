"""What the configurations of the tiny backbone share: shapes, budgets, rewards."""

from agemem_jax.training.configuration import run_config


def get_config():
    config = run_config.default_config()
    config.backbone = "tiny"

    config.episode.prompt_style = "compact"
    config.episode.max_context_tokens = 896
    config.episode.max_response_tokens = 96
    config.episode.max_summary_tokens = 48
    config.episode.max_rounds = 3
    config.memory.entries = 16

    # Few slots, which the host looks after as soon as one is idle: a step of decoding costs
    # almost by the slot, and 64 episodes leave a short tail.
    config.engine.slots = 12
    config.engine.max_length = 992
    config.engine.prefill_rows = 1
    config.engine.prefill_buckets = (16, 32, 48, 64, 96, 128)
    config.engine.attend_buckets = (640,)
    config.engine.decode_rows = (4, 8)
    config.engine.chunk = 16
    config.engine.idle_slots = 1

    config.packing.row_lengths = (640, 1024)
    config.packing.max_targets = 512
    config.packing.rows = 4

    config.curriculum.tasks_per_iteration = 8
    config.grpo.group_size = 8
    config.grpo.beta = 0.02
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 2
    return config
