"""TRL's GRPO trainer on the shape of `benchmarks/grpo.py`, as JSON on the last line.

    python trl_grpo.py MODEL_DIRECTORY SHAPE_AS_JSON REPEATS [float32|bfloat16] \\
        [cpu|accelerator|vllm]

A directory without weights gets random ones. Responses are forced to their length. With several
turns the model's tokens are sampled, and only what they are parsed into is scripted: every turn
calls a tool whose answer has the observation's number of tokens.
"""

import json
import os
import sys
import time

WHERE = sys.argv[5] if len(sys.argv) > 5 else "cpu"
USE_CPU = WHERE == "cpu"
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "WANDB_DISABLED": "true",
} | ({"CUDA_VISIBLE_DEVICES": ""} if USE_CPU else {})

import pathlib  # noqa: E402
import random  # noqa: E402

import torch  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from peak_memory import peak_memory  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
)
from trl.trainer import grpo_trainer  # noqa: E402


def main(directory: str, shape: dict, repeats: int, dtype: str) -> None:
    torch.set_num_threads(os.cpu_count())
    if not any(pathlib.Path(directory).glob("*.safetensors")):
        config = AutoConfig.from_pretrained(directory)
        random_model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        random_model.save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    word = next(w for w in (" cat", " a", "a") if len(tokenizer(w)["input_ids"]) == 1)
    steps = repeats + 1
    prompts = [word * shape["prompt"]] * (shape["prompts"] * (steps + 1))
    data, extra, options = {"prompt": prompts}, {}, {}
    if shape["turns"] > 1:
        tokenizer.chat_template = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
            "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
        tokenizer.response_schema = {"type": "object"}  # wanted, but `always_call` parses
        data = {"prompt": [[{"role": "user", "content": text}] for text in prompts]}
        extra = {"environment_factory": make_environment(word * shape["observation"])}
        options = {"max_tool_calling_iterations": shape["turns"] - 1}
        grpo_trainer.parse_response = always_call
    new = shape["new"]
    lengths = {"min_new_tokens": new, "max_new_tokens": new}
    if WHERE == "vllm":  # on the same card, which it shares with training
        lengths = {"min_tokens": new, "max_tokens": new}
        options |= {"use_vllm": True, "vllm_mode": "colocate"}
    episodes = shape["prompts"] * shape["group"]
    arguments = trl.GRPOConfig(
        output_dir="trl-output", use_cpu=USE_CPU, bf16=False, disable_tqdm=True, report_to="none",
        save_strategy="no", dataloader_pin_memory=False, gradient_checkpointing=False,
        per_device_train_batch_size=episodes, gradient_accumulation_steps=1, max_steps=steps,
        num_generations=shape["group"], beta=0.1, loss_type="grpo", learning_rate=1e-6,
        max_completion_length=shape["turns"] * (new + shape["observation"] + 16),
        temperature=1.0, top_p=1.0, top_k=0, model_init_kwargs={"dtype": dtype},
        generation_kwargs=lengths, **options,
    )  # fmt: skip
    seconds = {"step": [], "rollout": []}

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.begun = time.perf_counter()

        def on_step_end(self, *_, **__):
            seconds["step"].append(time.perf_counter() - self.begun)

    generate = trl.GRPOTrainer._generate

    def timed(self, *args, **kwargs):
        begun = time.perf_counter()
        result = generate(self, *args, **kwargs)
        seconds["rollout"].append(time.perf_counter() - begun)
        return result

    trl.GRPOTrainer._generate = timed
    trainer = trl.GRPOTrainer(
        model=directory, args=arguments, train_dataset=Dataset.from_dict(data),
        reward_funcs=lambda completions, **_: [random.random() for _ in completions],
        processing_class=tokenizer, callbacks=[Clock()], **extra,
    )  # fmt: skip
    trainer.train()
    peak = peak_memory() / 2**30
    print(json.dumps({name: each[1:] for name, each in seconds.items()} | {"peak": [peak]}))


def make_environment(observation: str):
    """An environment whose one tool always answers the same."""

    class Environment:
        def reset(self, **_):
            return None

        def recall(self, query: str) -> str:
            """Looks up a note.

            Args:
                query: What to look for.

            Returns:
                The note.
            """
            return observation

    return Environment


def always_call(*_, **__) -> dict:
    """Whatever was sampled counts as a call of the tool."""
    call = {"type": "function", "function": {"name": "recall", "arguments": {"query": "x"}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


if __name__ == "__main__":
    dtype_name = sys.argv[4] if len(sys.argv) > 4 else "float32"
    main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), dtype_name)
