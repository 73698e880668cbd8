"""The paper's setting: Qwen2.5-7B-Instruct on HotpotQA, K = 8, beta = 0.1, T_max = 8192.

    python experiments/fetch_weights.py --names=qwen2.5-7b-instruct,all-minilm-l6-v2
    python experiments/train.py --config=experiments/configs/qwen2.5_7b_hotpotqa.py \\
        --workdir=runs/qwen --config.judge.base_url=https://... --config.judge.model=...

The judge's key is read from AGEMEM_JUDGE_API_KEY; `--config.judge.kind=offline` needs no
judge. The model follows the tool protocol from its prompt, so there is no warm-up. The
paper reports J 45.36 before and 54.44 after reinforcement learning (table 2).
"""

from agemem_jax.training.configuration import doors, run_config


def get_config():
    config = run_config.default_config()
    config.backbone = "qwen2.5-7b-instruct"
    config.model.compute_dtype = "bfloat16"
    config.model.param_dtype = "bfloat16"
    config.model.remat = True
    config.model.lora_rank = 32
    config.model.lora_alpha = 64.0
    doors.use_tasks(config, "hotpotqa")
    config.tasks.eval_size = 500
    config.memory.embedder = "minilm"
    config.judge.kind = "llm"

    config.episode.max_context_tokens = 8192
    config.episode.max_response_tokens = 2048
    config.engine.max_length = 10_240
    config.engine.attend_buckets = ()  # a TPU's kernel reads caches as far as they are filled
    config.engine.prefill_buckets = (128, 512)  # one of 512 keeps a TPU's arithmetic busy
    config.engine.cache_dtype = "bfloat16"
    config.packing.row_lengths = (10_240,)
    config.packing.rows = 1

    config.curriculum.schedule = "phased"
    config.curriculum.iterations = (50, 50, 100)
    config.grpo.group_size = 8
    config.grpo.beta = 0.1
    config.optimizer.learning_rate = 1e-5
    return config
