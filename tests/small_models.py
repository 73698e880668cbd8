"""Small random models of every family in Hugging Face's format, made without torch."""

import os
import pathlib
import tempfile

import jax
import transformers

from agemem_jax.models import decoder, hf_config, hf_export, loading, tokenizers
from agemem_jax.protocol.chat_formats import CHAT_FORMATS

# The chat format of each family, and what its models have beside the common shape.
FAMILIES = {
    "llama": ("llama3", {"tie_word_embeddings": False}),
    "mistral": ("mistral", {"sliding_window": 64}),
    "qwen2": ("chatml", {}),
    "qwen3": ("chatml", {"head_dim": 16}),
    "qwen3_moe": (
        "chatml",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 16},
    ),
    "gemma2": ("gemma", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}),
    "gemma3_text": ("gemma", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}),
}
_SPECIAL = {
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
}


def write_model(
    directory: str | os.PathLike, family: str, seed: int = 0, **sizes: int
) -> pathlib.Path:
    """Writes a random model of `family` with its chat format; returns the directory.

    `sizes` are values of config.json beside, or instead of, those of a very small model.
    """
    format_name, values = FAMILIES[family]
    small = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
    }  # fmt: skip
    chat_format = CHAT_FORMATS[format_name]
    tokenizer = tokenizer_of(format_name)
    values = transformers.AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        layer_types=["sliding_attention", "full_attention"] if "gemma" in family else None,
        **small | values | sizes,
    )  # fmt: skip
    config = hf_config.from_values(values, where=family)
    tokenizer.chat_template = chat_format.template
    params = decoder.init_params(config, jax.random.key(seed))
    stop_id = tokenizer.get_vocab()[chat_format.stop]
    hf_export.export_model(directory, config, params, tokenizer, stop_id=stop_id, dtype="float32")
    return pathlib.Path(directory)


def tokenizer_of(format_name: str) -> transformers.PreTrainedTokenizerFast:
    """That of `tiny`, with the special tokens of the format in place of ChatML's."""
    path = loading.assets("tiny") / "tokenizer.json"
    if format_name == "chatml":
        return tokenizers.from_file(path)
    text = path.read_text(encoding="utf-8")
    for mark in ("<|im_start|>", "<|im_end|>"):
        text = text.replace(mark, f"<|plain_{mark[5:]}")
    with tempfile.TemporaryDirectory() as folder:
        changed = pathlib.Path(folder) / "tokenizer.json"
        changed.write_text(text, encoding="utf-8")
        tokenizer = tokenizers.from_file(changed)
    tokenizer.add_special_tokens({"additional_special_tokens": _SPECIAL[format_name]})
    return tokenizer
