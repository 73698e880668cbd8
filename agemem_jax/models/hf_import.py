"""Reads a Hugging Face model directory (config.json, *.safetensors) of Llama or Qwen2."""

import json
import os
import pathlib
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import safetensors.flax
from jaxtyping import Array, PyTree

from agemem_jax.models.config import DecoderConfig

_LAYER_TENSORS = {
    "input_layernorm.weight": "attention_norm/scale",
    "self_attn.q_proj.weight": "attention/q_proj/kernel",
    "self_attn.k_proj.weight": "attention/k_proj/kernel",
    "self_attn.v_proj.weight": "attention/v_proj/kernel",
    "self_attn.o_proj.weight": "attention/o_proj/kernel",
    "post_attention_layernorm.weight": "mlp_norm/scale",
    "mlp.gate_proj.weight": "mlp/gate_proj/kernel",
    "mlp.up_proj.weight": "mlp/up_proj/kernel",
    "mlp.down_proj.weight": "mlp/down_proj/kernel",
}
_LAYER_BIASES = {
    f"self_attn.{name}.bias": f"attention/{name}/bias" for name in ("q_proj", "k_proj", "v_proj")
}
# What differs between the families that are read; the key is config.json's model_type.
_FAMILIES = {"llama": {"qkv_bias": False}, "qwen2": {"qkv_bias": True}}


def read_config(directory: str | os.PathLike) -> DecoderConfig:
    """The decoder's shape, from config.json.

    Raises:
      FileNotFoundError: there is no config.json.
      ValueError: it describes a model that the decoder is not.
    """
    path = pathlib.Path(directory) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; a model directory holds one.")
    values = json.loads(path.read_text(encoding="utf-8"))
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    family = _FAMILIES.get(values.get("model_type"))
    if family is None:
        raise ValueError(
            f"{path} has model_type {values.get('model_type')!r}; the decoder reads "
            f"{', '.join(_FAMILIES)}."
        )
    read = {
        "hidden_act": (values.get("hidden_act", "silu"), "silu"),
        "attention_bias": (values.get("attention_bias", False), False),
        "use_sliding_window": (values.get("use_sliding_window", False), False),
        "mlp_bias": (values.get("mlp_bias", False), False),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
    }
    for name, (found, wanted) in read.items():
        if found != wanted:
            raise ValueError(f"{path} has {name} {found!r}; the decoder reads {wanted!r}.")
    width, heads = values["hidden_size"], values["num_attention_heads"]
    return DecoderConfig(
        vocab_size=values["vocab_size"],
        num_layers=values["num_hidden_layers"],
        width=width,
        num_heads=heads,
        num_kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or width // heads,
        ffn_width=values["intermediate_size"],
        rope_theta=float(rope.get("rope_theta", values.get("rope_theta", 10_000.0))),
        rms_eps=values["rms_norm_eps"],
        tied_embeddings=values.get("tie_word_embeddings", False),
        max_positions=values["max_position_embeddings"],
        **family,
    )


def read_params(directory: str | os.PathLike, config: DecoderConfig) -> PyTree:
    """Float32 parameters, from every safetensors file of the directory.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: tensors are missing, unknown or misshapen; the sentence names them.
    """
    paths = sorted(pathlib.Path(directory).glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"There is no safetensors file in {os.fspath(directory)}.")
    state: dict[str, Array] = {}
    for path in paths:
        state.update(safetensors.flax.load_file(path))
    return from_state(state, config, where=os.fspath(directory))


def from_state(state: dict[str, Any], config: DecoderConfig, *, where: str) -> PyTree:
    """Our parameters out of a state dict's arrays; `where` names it in errors."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    width, ffn = config.width, config.ffn_width
    outputs = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "gate_proj": ffn, "up_proj": ffn}
    inputs = {"o_proj": queries, "down_proj": ffn}
    wanted = {
        "model.embed_tokens.weight": ("embedding", (config.vocab_size, width)),
        "model.norm.weight": ("final_norm/scale", (width,)),
    }
    if not config.tied_embeddings:
        wanted["lm_head.weight"] = ("output", (config.vocab_size, width))
    for index in range(config.num_layers):
        for name, path in (_LAYER_TENSORS | (_LAYER_BIASES if config.qkv_bias else {})).items():
            part = path.split("/")[-2]
            matrix = (outputs.get(part, width), inputs.get(part, width))
            shape = matrix if path.endswith("kernel") else matrix[:1]
            wanted[f"model.layers.{index}.{name}"] = (f"layer_{index}/{path}", shape)
    ignored = {"lm_head.weight"} if config.tied_embeddings else set()
    wrong = [f"{name} is missing" for name in wanted if name not in state]
    wrong += [f"{name} is unknown" for name in state if name not in wanted and name not in ignored]
    wrong += [
        f"{name} has shape {tuple(state[name].shape)} instead of {shape}"
        for name, (_, shape) in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if wrong:
        raise ValueError(f"{where} does not hold the model it describes: {'; '.join(wrong)}.")
    flat = {}
    for name, (path, _) in wanted.items():
        array = jnp.asarray(state[name], jnp.float32)
        flat[path] = array.T if path.endswith("kernel") else array
    return flax.traverse_util.unflatten_dict(flat, sep="/")
