"""The tiny backbone acts: it carries balls between two rooms, in PDDL's gripper.

    python experiments/train.py --config=experiments/configs/tiny_gripper.py \\
        --workdir=runs/gripper
    python experiments/evaluate.py --workdir=runs/gripper --methods=agemem_norl,agemem

Needs requirements-benchmarks.txt. The warm-up on scripted play took 25 minutes on two busy cores,
and left success at 27 % of 48 held-out problems. Expect nothing of the reinforcement learning
behind it yet: with these rewards it has not been run to its end.
"""

from agemem_jax.configs import tiny
from agemem_jax.training import config_doors


def get_config():
    config = tiny.get_config()
    config_doors.use_tasks(
        config, "pddl", domains=("gripper",), difficulties=("tiny",), size=2000, experiences=1,
        distractors=0, max_steps=8,
    )  # fmt: skip
    config.tasks.eval_split = "validation"
    config.tasks.eval_size = 150

    # The system prompt and the goal take 330 tokens, a look into the memory and each action with
    # what is seen then 90.
    config.episode.max_context_tokens = 1280
    config.episode.max_response_tokens = 72
    config.engine.max_length = 1352
    config.engine.attend_buckets = (640, 960)
    config.packing.row_lengths = (1024, 1360)
    config.packing.max_microbatches = 16

    # The shipped weights know the format and the questions, not how to act.
    config.warmup.steps = 200
    config.warmup.batch = 16
    config.warmup.episodes = 400
    config.warmup.imperfection.broken_format = 0.0
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
    config.curriculum.tasks_per_iteration = 6
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 4
    config.optimizer.schedule = "cosine"
    return config
