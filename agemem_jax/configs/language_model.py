"""A language model of half a billion parameters learns to manage memory, with LoRA.

    python experiments/train.py --config=experiments/configs/language_model.py:multihop \\
        --workdir=runs/language_model

Behind the colon stands what it is trained on: `multihop` (the embedded tasks), `hotpotqa`, or
`mixed` (both, half and half). Qwen2.5-Coder-0.5B-Instruct comes from the hub; any other backbone
takes its place by `--config.backbone=smollm2-135m` or a folder. It is warmed up on scripted play,
since models of this size seldom keep to the protocol by their prompt alone, and then trained by
GRPO. One GPU takes minutes for what takes two CPU cores hours. No figures have been measured yet.
"""

from agemem_jax.training.configuration import doors, run_config

# Distractors and words of each paragraph, so that an episode fits small budgets.
_HOTPOTQA = {"num_distractors": 1, "max_words": 40}


def get_config(tasks: str = "multihop"):
    config = run_config.default_config()
    config.backbone = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    config.model.lora_rank = 16
    config.model.lora_alpha = 32.0
    config.memory.embedder = "minilm"
    config.episode.prompt_style = "compact"
    config.episode.max_rounds = 3
    config.engine.slots = 16
    config.engine.prefill_rows = 4
    config.engine.prefill_buckets = (64, 256)
    config.packing.rows = 1
    config.packing.max_microbatches = 64

    config.warmup.steps = 60
    config.warmup.episodes = 480
    config.warmup.batch = 8
    config.warmup.optimizer.learning_rate = 1e-3
    config.warmup.optimizer.warmup_steps = 6
    config.curriculum.schedule = "joint"
    config.curriculum.iterations = (30,)
    config.curriculum.tasks_per_iteration = 4
    config.curriculum.checkpoint_every = 5
    config.grpo.group_size = 8
    config.grpo.beta = 0.02
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_steps = 3
    config.optimizer.schedule = "cosine"
    config.tasks.eval_size = 200

    if tasks == "multihop":
        _fit(config, context=768, response=96, row=1536, targets=512)
    elif tasks == "hotpotqa":
        doors.use_tasks(config, "hotpotqa", **_HOTPOTQA)
        _fit(config, context=1536, response=160, row=2048, targets=640)
    elif tasks == "mixed":
        options = ", ".join(f"{name}={value}" for name, value in _HOTPOTQA.items())
        doors.use_tasks(config, "mixture", sources=("multihop", f"hotpotqa({options})"))
        _fit(config, context=1536, response=160, row=2048, targets=640)
    else:
        raise ValueError(f"{tasks!r} is none of multihop, hotpotqa and mixed.")
    return config


def _fit(config, context: int, response: int, row: int, targets: int) -> None:
    """Budgets of an episode, and shapes that hold it; all in tokens."""
    config.episode.max_context_tokens = context
    config.episode.max_response_tokens = response
    config.episode.max_summary_tokens = 64
    config.engine.max_length = context + response
    config.engine.attend_buckets = (context // 2,)
    config.packing.row_lengths = (row,)
    config.packing.max_targets = targets
