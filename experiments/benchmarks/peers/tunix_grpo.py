"""Tunix's GRPO learners on the shape of `benchmarks/grpo.py`, as JSON on the last line.

    python tunix_grpo.py MODEL_DIRECTORY SHAPE_AS_JSON REPEATS

A tokenizer that reads integers keeps all lengths exact. One turn takes the plain learner,
several the agentic one with an environment that answers random tokens.
"""

import json
import os
import sys
import time

os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402
from jax.sharding import Mesh  # noqa: E402
from peak_memory import peak_memory  # noqa: E402
from tunix.models.llama3 import model as llama  # noqa: E402
from tunix.rl import rl_cluster  # noqa: E402
from tunix.rl.agentic import agentic_grpo_learner, agentic_rl_learner  # noqa: E402
from tunix.rl.agentic.environments import base_environment  # noqa: E402
from tunix.rl.grpo import grpo_learner  # noqa: E402
from tunix.rl.rollout import base_rollout  # noqa: E402

RNG = np.random.default_rng(0)


class Numbers:
    """Tokens are written as decimal numbers."""

    def encode(self, text, **_):
        return [int(word) for word in text.split()]

    def decode(self, ids, **_):
        return " ".join(map(str, ids))

    def bos_id(self):
        return None

    def eos_id(self):
        return 2

    def pad_id(self):
        return 0


class Parser:
    """A chat is its contents, one token before each message and one before an answer."""

    def parse(self, messages, add_generation_prompt=False, is_first_msg=False):
        text = " ".join(f"1 {message['content']}".strip() for message in messages)
        return text + (" 3" if add_generation_prompt else "")


def tokens(count: int, size: int) -> str:
    return " ".join(map(str, RNG.integers(10, size, count)))


def _response(shape: dict) -> int:
    """What an episode adds to its prompt, at most; rollout and learner must agree on it."""
    return shape["turns"] * (shape["new"] + shape["observation"] + 2) + 8


def main(directory: str, shape: dict, repeats: int) -> None:
    values = json.loads(open(os.path.join(directory, "config.json")).read())
    config = llama.ModelConfig(
        num_layers=values["num_hidden_layers"], vocab_size=values["vocab_size"],
        embed_dim=values["hidden_size"], hidden_dim=values["intermediate_size"],
        num_heads=values["num_attention_heads"], head_dim=values["head_dim"],
        num_kv_heads=values["num_key_value_heads"],
        rope_theta=int(values["rope_parameters"]["rope_theta"]),
        norm_eps=values["rms_norm_eps"], weight_tying=values["tie_word_embeddings"],
    )  # fmt: skip
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    with mesh:
        actor, reference = (llama.Llama3(config, rngs=nnx.Rngs(0)) for _ in range(2))
    steps = repeats + 1
    turns, new = shape["turns"], shape["new"]
    response = _response(shape)
    many = turns > 1
    prompt = shape["prompt"] + (response if many else 0)
    roles = rl_cluster.Role
    cluster = rl_cluster.RLCluster(
        actor=actor, reference=reference, tokenizer=Numbers(),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys((roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), mesh),
            rollout_engine="vanilla",
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.adamw(1e-6), eval_every_n_steps=10**6, max_steps=steps,
                mini_batch_size=shape["prompts"], train_micro_batch_size=shape["prompts"],
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=response if many else new, max_prompt_length=prompt,
                kv_cache_size=prompt + (response if many else new), temperature=1.0, top_p=1.0,
                top_k=None, eos_tokens=[-1], return_logprobs=many,
            ),
        ),
    )  # fmt: skip
    count = steps + many
    data = [
        {"prompts": np.array([tokens(shape["prompt"], config.vocab_size)
                              for _ in range(shape["prompts"])])}
        for _ in range(count)
    ]  # fmt: skip
    run = several_turns if many else one_turn
    with mesh:
        seconds = run(cluster, data, shape, config.vocab_size)
    peak = peak_memory() / 2**30
    result = {name: each[1:] for name, each in seconds.items()} | {"peak": [peak]}
    print(json.dumps(result), flush=True)
    os._exit(0)  # the agentic learner leaves threads behind


def one_turn(cluster, data, shape, size) -> dict[str, list[float]]:
    def reward(prompts, completions, **_):
        return RNG.normal(size=len(completions)).tolist()

    learner = grpo_learner.GRPOLearner(
        rl_cluster=cluster, reward_fns=reward,
        algo_config=grpo_learner.GRPOConfig(
            num_generations=shape["group"], num_iterations=1, beta=0.1, epsilon=0.2
        ),
    )  # fmt: skip
    seconds = {"step": [], "rollout": []}
    generate, step = cluster.generate, learner._run_global_step

    def timed_generate(*args, **kwargs):
        begun = time.perf_counter()
        result = generate(*args, **kwargs)
        seconds["rollout"].append(time.perf_counter() - begun)
        return result

    def timed_step(*args, **kwargs):
        begun = time.perf_counter()
        result = step(*args, **kwargs)
        jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
        seconds["step"].append(time.perf_counter() - begun)
        return result

    cluster.generate, learner._run_global_step = timed_generate, timed_step
    learner.train(data)
    return seconds


def several_turns(cluster, data, shape, size) -> dict[str, list[float]]:
    class Environment(base_environment.BaseTaskEnv):
        def __init__(self, single_example, **rest):
            super().__init__(task=single_example, max_steps=shape["turns"], **rest)

        def _initial_observation(self):
            prompt = self.task["prompts"]
            return {"prompts": str(prompt if isinstance(prompt, str) else prompt[0])}

        def _step_impl(self, action):
            return base_environment.EnvStepResult(
                observation=tokens(shape["observation"], size), reward=float(RNG.random()),
                done=False, info={},
            )  # fmt: skip

    calls, updates = [], []
    call = agentic_rl_learner.AgenticRLLearner._model_call

    def timed_call(self, chat, env=None, max_generation_steps=None):
        begun = time.perf_counter()
        result = call(self, chat, env, max_generation_steps=shape["new"])
        calls.append((begun, time.perf_counter()))
        return result

    agentic_rl_learner.AgenticRLLearner._model_call = timed_call
    learner = agentic_grpo_learner.GRPOLearner(
        rl_cluster=cluster, chat_parser=Parser(), env_class=Environment, reward_fns=None,
        algo_config=agentic_grpo_learner.GRPOConfig(
            num_generations=shape["group"], num_iterations=1, beta=0.1, epsilon=0.2,
            max_response_length=_response(shape), max_concurrency=shape["prompts"] * shape["group"],
        ),
    )  # fmt: skip
    update = cluster.update_actor

    def timed_update(*args, **kwargs):
        result = update(*args, **kwargs)
        jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
        updates.append(time.perf_counter())
        return result

    cluster.update_actor = timed_update
    learner.train(data)
    seconds = {"step": [], "rollout": []}
    for before, after in zip(updates, updates[1:], strict=False):
        inside = [each for each in calls if before <= each[0] <= after]
        seconds["step"].append(after - before)
        seconds["rollout"].append(max(e for _, e in inside) - min(b for b, _ in inside))
    return seconds


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
