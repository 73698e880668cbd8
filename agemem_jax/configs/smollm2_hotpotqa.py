"""SmolLM2-135M with LoRA on HotpotQA, small enough for two CPU cores.

    python experiments/fetch_weights.py
    python experiments/train.py --config=experiments/configs/smollm2_hotpotqa.py \\
        --workdir=runs/smollm2 --config.tasks.options.manual_dir=FOLDER

FOLDER holds the official JSON files of the distractor setting; without the flag they are
downloaded. Memory and context filter use all-MiniLM-L6-v2.
"""

from agemem_jax.training.configuration import doors, run_config


def get_config():
    config = run_config.default_config()
    config.backbone = "smollm2-135m"
    config.model.lora_rank = 16
    config.model.lora_alpha = 32.0
    doors.use_tasks(config, "hotpotqa", num_distractors=1, max_words=40)
    config.tasks.eval_size = 100
    config.memory.embedder = "minilm"

    config.episode.prompt_style = "compact"
    config.episode.max_context_tokens = 1536
    config.episode.max_response_tokens = 160
    config.episode.max_summary_tokens = 64
    config.episode.max_rounds = 3
    config.engine.slots = 8
    config.engine.max_length = 1696
    config.engine.prefill_rows = 4
    config.engine.prefill_buckets = (128,)
    config.engine.attend_buckets = (1024,)
    config.packing.row_lengths = (1792,)
    config.packing.max_targets = 640
    config.packing.rows = 1
    config.packing.max_microbatches = 64

    config.warmup.steps = 30
    config.warmup.episodes = 200
    config.warmup.batch = 4
    config.warmup.optimizer.learning_rate = 1e-3
    config.warmup.optimizer.warmup_steps = 5
    config.curriculum.iterations = (10,)
    config.curriculum.tasks_per_iteration = 2
    config.curriculum.checkpoint_every = 5
    config.grpo.group_size = 4
    config.grpo.beta = 0.02
    # At 2e-4 the policy leaves the protocol within three iterations.
    config.optimizer.learning_rate = 3e-5
    config.optimizer.warmup_steps = 2
    return config
