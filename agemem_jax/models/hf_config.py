"""Translates Hugging Face's model configurations into ours and back.

transformers reads config.json, so that files of every age of the format arrive in one
form; `FAMILIES` says what each model type means for the decoder.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import transformers

from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.rope import SCALINGS, Rope

_SCALINGS = tuple(each for each in SCALINGS if each != "table")  # which config.json cannot say
_SLIDING, _FULL = "sliding_attention", "full_attention"
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def _gemma(values: Any) -> dict[str, Any]:
    return {
        "unit_offset_norms": True,
        "post_norms": True,
        "embedding_scale": values.hidden_size**0.5,
        "attention_scale": values.query_pre_attn_scalar**-0.5,
        "attention_softcap": values.attn_logit_softcapping or 0.0,
        "logit_softcap": values.final_logit_softcapping or 0.0,
    }


def _experts(values: Any) -> dict[str, Any]:
    step = values.decoder_sparse_step
    return {
        "num_experts": values.num_experts,
        "experts_per_token": values.num_experts_per_tok,
        "expert_width": values.moe_intermediate_size,
        "renormalise_experts": values.norm_topk_prob,
        "dense_layers": tuple(
            layer
            for layer in range(values.num_hidden_layers)
            if layer in (values.mlp_only_layers or ()) or (layer + 1) % step
        ),
    }


def _nothing(values: Any) -> dict[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of config.json.

    Attributes:
      features: fields of `DecoderConfig` that every model of the family has.
      read: fields that a configuration of the family sets.
      architecture: transformers' class, as config.json names it.
    """

    architecture: str
    features: dict[str, Any] = dataclasses.field(default_factory=dict)
    read: Callable[[Any], dict[str, Any]] = _nothing


FAMILIES = {
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM"),
    "qwen2": Family("Qwen2ForCausalLM", {"qkv_bias": True}),
    "qwen3": Family("Qwen3ForCausalLM", {"qk_norm": True}),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", {"qk_norm": True}, _experts),
    "gemma2": Family("Gemma2ForCausalLM", read=_gemma),
    "gemma3_text": Family("Gemma3ForCausalLM", {"qk_norm": True}, _gemma),
}
_WITH_TEXT_PART = {"gemma3": "gemma3_text"}  # images and text: the text part is read


def read_config(directory: str | os.PathLike) -> DecoderConfig:
    """The decoder's shape, from config.json.

    Raises:
      FileNotFoundError: there is no config.json.
      ValueError: it describes a model that the decoder is not.
    """
    path = pathlib.Path(directory) / "config.json"
    return from_values(load_values(directory), where=os.fspath(path))


def load_values(directory: str | os.PathLike) -> Any:
    """config.json as transformers reads it, of a model type that is known here.

    Raises:
      FileNotFoundError: there is no config.json.
      ValueError: it is not JSON, or its model type is unknown.
    """
    path = pathlib.Path(directory) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; a model directory holds one.")
    model_type = _read_json(path).get("model_type")
    if model_type not in FAMILIES and model_type not in _WITH_TEXT_PART:
        raise ValueError(
            f"{path} has model_type {model_type!r}; the decoder reads "
            f"{', '.join((*FAMILIES, *_WITH_TEXT_PART))}."
        )
    with _quiet_transformers():
        values = transformers.AutoConfig.from_pretrained(directory)
    text = values.get_text_config()
    if text is not values:  # the output belongs to the model around the text part
        text.tie_word_embeddings = values.tie_word_embeddings
    return text


def is_around_text_part(directory: str | os.PathLike) -> bool:
    """Whether a directory holds a model that reads images as well, around its text model."""
    try:
        return _read_json(pathlib.Path(directory) / "config.json")["model_type"] in _WITH_TEXT_PART
    except (FileNotFoundError, NotADirectoryError, KeyError):
        return False


def end_tokens(directory: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Tokens that end a text, by the file that names them; often there are several.

    Raises:
      FileNotFoundError: there is no config.json.
      ValueError: a file is not a JSON object.
    """
    folder, found = pathlib.Path(directory), {}
    values = _read_json(folder / "config.json")
    if "eos_token_id" not in values:
        values = values.get("text_config") or {}
    found["config.json"] = _tokens(values.get("eos_token_id"))
    if (folder / "generation_config.json").is_file():
        values = _read_json(folder / "generation_config.json")
        found["generation_config.json"] = _tokens(values.get("eos_token_id"))
    return found


def _tokens(value: Any) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(each for each in listed if isinstance(each, int) and each >= 0)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a JSON object ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} cannot be read as a JSON object; it holds {values!r:.40}.")
    return values


def from_values(values: Any, *, where: str) -> DecoderConfig:
    """`read_config` of a configuration that is loaded already; `where` names it in errors."""
    family = FAMILIES[values.model_type]
    activation = getattr(values, "hidden_activation", None) or values.hidden_act
    for name, found, wanted in (
        ("attention_bias", bool(getattr(values, "attention_bias", False)), {False}),
        ("mlp_bias", bool(getattr(values, "mlp_bias", False)), {False}),
        ("hidden_act", activation, set(_ACTIVATIONS)),
        ("use_bidirectional_attention", bool(_value(values, "use_bidirectional_attention")),
         {False}),
    ):  # fmt: skip
        if found not in wanted:
            allowed = " or ".join(repr(each) for each in sorted(wanted))
            raise ValueError(f"{where} has {name} {found!r}; the decoder reads {allowed}.")
    heads = values.num_attention_heads
    layer_types = _layer_types(values)
    ropes = values.rope_parameters
    if _FULL not in ropes:  # one embedding for all layers
        ropes = {_FULL: ropes}
    read = {kind: _rope(rope, values, where) for kind, rope in ropes.items() if rope}
    return DecoderConfig(
        vocab_size=values.vocab_size,
        num_layers=values.num_hidden_layers,
        width=values.hidden_size,
        num_heads=heads,
        num_kv_heads=values.num_key_value_heads or heads,
        head_dim=_value(values, "head_dim") or values.hidden_size // heads,
        ffn_width=values.intermediate_size,
        rope=read[_FULL],
        local_rope=read.get(_SLIDING),
        windows=tuple(values.sliding_window if t == _SLIDING else 0 for t in layer_types)
        if _SLIDING in layer_types
        else (),
        activation=_ACTIVATIONS[activation],
        rms_eps=values.rms_norm_eps,
        tied_embeddings=bool(values.tie_word_embeddings),
        max_positions=values.max_position_embeddings,
        **family.features,
        **family.read(values),
    )


def _layer_types(values: Any) -> list[str]:
    listed = _value(values, "layer_types")
    if listed:
        return list(listed)
    # Mistral has one window for all layers; families that list none have no window.
    windowed = values.model_type == "mistral" and values.sliding_window
    return [_SLIDING if windowed else _FULL] * values.num_hidden_layers


def _rope(values: dict[str, Any], config: Any, where: str) -> Rope:
    kind = values.get("rope_type", "default")
    if kind not in _SCALINGS or values.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(
            f"{where} has RoPE of type {kind!r} on {values.get('partial_rotary_factor', 1.0)} of "
            f"a head; the decoder reads {', '.join(_SCALINGS)} on all of it."
        )
    original = values.get("original_max_position_embeddings")
    original = original or config.max_position_embeddings
    if kind == "default":
        return Rope(theta=float(values["rope_theta"]))
    factor = values.get("factor") or config.max_position_embeddings / original
    names = {"llama3": ("low_freq_factor", "high_freq_factor"), "yarn": ("beta_slow", "beta_fast")}
    given = {n: float(values[n]) for n in names.get(kind, ()) if values.get(n) is not None}
    if kind == "yarn":
        given["attention_factor"] = _yarn_attention_factor(values, factor)
        given["truncate"] = values.get("truncate", True)
    if kind != "linear":
        given["original_positions"] = int(original)
    return Rope(
        theta=float(values["rope_theta"]), scaling=kind, factor=float(factor), **given
    )  # fmt: skip


def _yarn_attention_factor(values: dict[str, Any], factor: float) -> float:
    """What a file says, or what the paper gives for the stretch (arXiv 2309.00071, eq. 22)."""

    def sharpen(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if values.get("attention_factor") is not None:
        return float(values["attention_factor"])
    if values.get("mscale") and values.get("mscale_all_dim"):
        return sharpen(values["mscale"]) / sharpen(values["mscale_all_dim"])
    return sharpen(1.0)


def family_of(config: DecoderConfig) -> str:
    """The model type whose features `config` has."""
    if config.num_experts:
        return "qwen3_moe"
    if config.unit_offset_norms:
        return "gemma3_text" if config.qk_norm else "gemma2"
    if config.qk_norm:
        return "qwen3"
    if config.qkv_bias:
        return "qwen2"
    return "mistral" if config.windows else "llama"


def to_values(config: DecoderConfig, **tokens: Any) -> dict[str, Any]:
    """The contents of a config.json that `read_config` turns into `config` again.

    LoRA and precision are no part of it. `tokens` are ids of special tokens, such as
    `eos_token_id`.

    Raises:
      ValueError: no family has this combination of features.
    """
    model_type = family_of(config)
    rope = _rope_values(config.rope, config)
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_embeddings,
        "max_position_embeddings": config.max_positions,
    }
    activation = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}[config.activation]
    values["hidden_activation" if config.unit_offset_norms else "hidden_act"] = activation
    window = max(config.windows, default=0)
    if model_type == "mistral":
        values["sliding_window"] = window
    elif window:
        values["sliding_window"] = window
        values["use_sliding_window"] = True
        values["layer_types"] = [_SLIDING if w else _FULL for w in config.windows]
    if config.unit_offset_norms:
        values |= {
            "query_pre_attn_scalar": round((config.attention_scale or config.head_dim**-0.5) ** -2),
            "attn_logit_softcapping": config.attention_softcap or None,
            "final_logit_softcapping": config.logit_softcap or None,
        }
    if model_type == "gemma3_text":
        local = _rope_values(config.local_rope or config.rope, config)
        values["rope_parameters"] = {_FULL: rope, _SLIDING: local}
    if config.num_experts:
        values |= {
            "num_experts": config.num_experts,
            "num_experts_per_tok": config.experts_per_token,
            "moe_intermediate_size": config.expert_width,
            "norm_topk_prob": config.renormalise_experts,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(config.dense_layers),
        }
    made = transformers.AutoConfig.for_model(model_type, **values, **tokens)
    plain = {
        "lora_rank": 0, "lora_alpha": 16.0, "lora_dropout": 0.0, "compute_dtype": "float32",
        "remat": False, "backend": "auto", "lora_targets": DecoderConfig.lora_targets,
    }  # fmt: skip
    again = from_values(made, where="the translated configuration")
    if not _equal(again, dataclasses.replace(config, **plain)):
        raise ValueError(
            f"No model type of Hugging Face describes this decoder: as {model_type!r} it would "
            f"be {again}."
        )
    return made.to_dict() | {"architectures": [FAMILIES[model_type].architecture]}


def _equal(first: DecoderConfig, second: DecoderConfig) -> bool:
    """Whether two configurations mean the same decoder."""

    def meaning(config: DecoderConfig) -> DecoderConfig:
        scale = config.attention_scale or config.head_dim**-0.5
        local = config.local_rope or config.rope
        windows = config.windows or (0,) * config.num_layers
        return dataclasses.replace(
            config,
            attention_scale=float(f"{scale:.7g}"),
            local_rope=local if any(windows) else None,
            windows=windows,
        )

    return meaning(first) == meaning(second)


def _rope_values(rope: Rope, config: DecoderConfig) -> dict[str, Any]:
    if rope.scaling == "table":
        raise ValueError(
            "No model type of Hugging Face describes this decoder: its rotary frequencies are a "
            "table that follows none of their rules; export the adapter of a LoRA run instead."
        )
    values: dict[str, Any] = {"rope_type": rope.scaling, "rope_theta": rope.theta}
    if rope.scaling != "default":
        values["factor"] = rope.factor
    if rope.scaling in ("llama3", "yarn"):
        values["original_max_position_embeddings"] = rope.original_positions
    if rope.scaling == "llama3":
        values["low_freq_factor"] = rope.low_freq_factor
        values["high_freq_factor"] = rope.high_freq_factor
    if rope.scaling == "yarn":
        values |= {
            "beta_slow": rope.beta_slow,
            "beta_fast": rope.beta_fast,
            "attention_factor": rope.attention_factor,
            "truncate": rope.truncate,
        }
    return values


def _value(values: Any, name: str) -> Any:
    return getattr(values, name, None)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Its remarks on configurations are about its own models."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
