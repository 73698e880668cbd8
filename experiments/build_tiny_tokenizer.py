"""Builds the byte-level BPE tokenizer of the `tiny` backbone.

    python experiments/build_tiny_tokenizer.py

The corpus is what the tiny agent reads and writes: the compact system prompt and
scripted episodes of the embedded multi-hop tasks (train split only). The result is
`agemem_jax/models/assets/tiny/tokenizer.json`; the same corpus gives the same file.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # this clone, installed or not

import numpy as np
from absl import flags, logging
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import agemem_jax
from agemem_jax.commands import cli
from agemem_jax.protocol import prompts
from agemem_jax.rollout.tools.registry import tool_table
from agemem_jax.tasks.multihop import MultihopConfig, MultihopSource
from agemem_jax.tasks.task import Task
from agemem_jax.training.warmup.demonstrations import PHRASES

_EPISODES = flags.DEFINE_integer("episodes", 4000, "Scripted episodes in the corpus.", 1)
_VOCABULARY = flags.DEFINE_integer("vocabulary", 1024, "Tokens, special ones included.", 600)
_OUTPUT = flags.DEFINE_string("output", None, "Where to write; default: inside the package.")

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>"]

# Words carry their leading space unless capitalised, so that a name is spelled by the
# same tokens wherever it stands; digits stand alone, so that years compare digit by
# digit; the eight hexadecimal digits of a memory id go in pairs, so that an id is five
# nearly unique tokens; punctuation of JSON stays together.
_PIECES = "|".join(
    (
        r" (?=mem_)",
        r"mem_",
        r"(?<=mem_)[0-9a-f]{2}",
        r"(?<=mem_[0-9a-f]{2})[0-9a-f]{2}",
        r"(?<=mem_[0-9a-f]{4})[0-9a-f]{2}",
        r"(?<=mem_[0-9a-f]{6})[0-9a-f]{2}",
        r"[A-Z][a-z]+(?:_[a-z]+)*",
        r" ?[a-z]+(?:_(?!_)[a-z]+)*",
        r"\d",
        r" ?[^\sA-Za-z0-9]+(?: [^\sA-Za-z0-9]+)*",
        r"\s+",
        r".",
    )
)


def train(texts: list[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of at most `vocabulary` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(TAGS)
    return tokenizer


def corpus(episodes: int) -> list[str]:
    """What the tiny agent reads and writes, without the tags and delimiters."""
    rng = np.random.default_rng(0)
    source = MultihopSource("train", episodes, config=MultihopConfig())
    fixed = [prompts.system_prompt("compact", tool_table()), prompts.summary_prompt(), *PHRASES]
    texts = fixed * (episodes // 10)
    for index in range(episodes):
        task = source[index]
        texts += _episode_texts(task, [f"mem_{n:08x}" for n in rng.integers(0, 2**32, 16)])
    return texts


def _episode_texts(task: Task, ids: list[str]) -> list[str]:
    facts = [*task.supporting_facts, *task.stale_facts]
    entries = "\n".join(f"- {i}: {fact}" for i, fact in zip(ids, facts, strict=False))
    texts = [*task.messages, *task.distractors, prompts.query_text(task.query), task.answer]
    texts += [f"{message}\nMemories:\n{entries}" for message in task.messages]
    texts += [f"Added {i}.\nUpdated {i}.\nDeleted {i}." for i in ids]
    calls = [{"name": "Add_memory", "arguments": {"content": fact}} for fact in facts]
    calls += [
        {"name": "Update_memory", "arguments": {"memory_id": ids[0], "content": facts[0]}},
        {"name": "Delete_memory", "arguments": {"memory_id": ids[1], "confirmation": True}},
        {"name": "Retrieve_memory", "arguments": {"query": task.query, "top_k": 3}},
        {"name": "Filter_context", "arguments": {"criteria": task.distractors[0]}},
        {"name": "Summary_context", "arguments": {"span": "all"}},
    ]
    texts += [json.dumps([call]) for call in calls]
    return texts


def main(argv):
    del argv
    default = pathlib.Path(agemem_jax.__path__[0]) / "models" / "assets" / "tiny" / "tokenizer.json"
    output = pathlib.Path(_OUTPUT.value or default)
    output.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = train(corpus(_EPISODES.value), _VOCABULARY.value)
    tokenizer.save(str(output))
    logging.info("Wrote %d tokens to %s", tokenizer.get_vocab_size(), output)


if __name__ == "__main__":
    cli.run(main)
