"""The tiny backbone acts: it looks for a red ball and goes to it, BabyAI's easiest level.

    python experiments/train.py --config=experiments/configs/tiny_babyai.py --workdir=runs/babyai
    python experiments/evaluate.py --workdir=runs/babyai --methods=agemem_norl,agemem

Needs requirements-benchmarks.txt. The warm-up imitates scripted play that takes every second
action at random, and takes about ten minutes on two cores; the 24 iterations behind it take as
long. Expect success on 150 held-out episodes to rise from 54 % to 85 or 95 %, by seed;
docs/results.md has the table. Four actions are allowed, where the benchmark has thirty: enough
for whoever turns until the ball is seen, and few for whoever guesses.
"""

from agemem_jax.configs import tiny
from agemem_jax.training.configuration import doors


def get_config():
    config = tiny.get_config()
    doors.use_tasks(
        config, "babyai", levels=("BabyAI-GoToRedBallNoDists-v0",), size=4000, experiences=1,
        distractors=0, max_steps=4,
    )  # fmt: skip
    config.tasks.eval_split = "validation"
    config.tasks.eval_size = 150

    # The system prompt and the goal take 560 tokens, each action with what is seen then 130.
    config.episode.max_context_tokens = 1280
    config.episode.max_response_tokens = 72
    config.engine.max_length = 1352
    config.engine.attend_buckets = (640, 960)
    config.packing.row_lengths = (1024, 1360)
    config.packing.max_microbatches = 16

    # The shipped weights know the format and the questions, not how to act. Demonstrations that
    # wander teach which actions there are, and leave it to RL which of them helps.
    config.warmup.steps = 150
    config.warmup.batch = 16
    config.warmup.episodes = 600
    config.warmup.imperfection.broken_format = 0.0
    config.warmup.imperfection.wrong_action = 0.5
    config.warmup.imperfection.ignore_wrong = 0.5
    config.warmup.optimizer.learning_rate = 1e-3
    config.warmup.optimizer.warmup_steps = 20
    config.warmup.optimizer.schedule = "cosine"

    # To reach the goal is what counts: where no rollout of a group does, what its memories
    # differ by must not be blown up to the same advantages.
    config.rewards.components.task.weight = 1.0
    config.rewards.components.context.weight = 0.1
    config.rewards.components.memory.weight = 0.1
    config.grpo.normalise_std = False
    # Filling the context with broken calls must cost as much as to run out of actions: where it
    # costs less, that is what is learned.
    config.rewards.components.penalty.options.token_budget = -1.0
    # Failed episodes have more steps than others. Counted by the step they would make the mean
    # advantage negative, which unlearns whatever is said, the format too.
    config.grpo.normalisation = "trajectory"

    config.curriculum.schedule = "joint"
    config.curriculum.iterations = (24,)
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 4
    config.optimizer.schedule = "cosine"
    return config
