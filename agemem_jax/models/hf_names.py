"""Where each of our parameters stands in a Hugging Face state dict, for import and export.

All families name their tensors alike; what a model lacks (biases, norms, experts) is left
out by its configuration. Theirs are [output, input], ours [input, output].
"""

import dataclasses

from agemem_jax.models.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Stored:
    """How one of our parameters is stored.

    Attributes:
      names: of the tensors: one, or one per expert, which stack on our first axis.
      shape: of each of them.
      transposed: whether we hold the transpose.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def stacked(self) -> bool:
        """Whether there is one tensor per expert."""
        return len(self.names) > 1

    @property
    def held_shape(self) -> tuple[int, ...]:
        """The shape of our parameter."""
        shape = tuple(reversed(self.shape)) if self.transposed else self.shape
        return (len(self.names), *shape) if self.stacked else shape


def stored_parameters(config: DecoderConfig) -> dict[str, Stored]:
    """Our slash-separated paths to what is stored for them."""
    table = (config.vocab_size, config.width)
    stored = {"embedding": Stored(("model.embed_tokens.weight",), table)}
    for index in range(config.num_layers):
        for path, part in _layer(config, index).items():
            names = tuple(f"model.layers.{index}.{name}" for name in part.names)
            stored[f"layer_{index}/{path}"] = dataclasses.replace(part, names=names)
    stored["final_norm/scale"] = Stored(("model.norm.weight",), (config.width,))
    if not config.tied_embeddings:
        stored["output"] = Stored(("lm_head.weight",), table)
    return stored


def lora_module(path: str, *, inside: str = "") -> str:
    """The Hugging Face module that a LoRA pair at our `path` ("layer_0/mlp/up_proj") adds to.

    `inside` is the part of a larger model that is the text model, such as "language_model.".
    """
    layer, block, projection = path.split("/")
    block = {"attention": "self_attn", "mlp": "mlp"}[block]
    return f"model.{inside}layers.{layer.removeprefix('layer_')}.{block}.{projection}"


def _layer(config: DecoderConfig, index: int) -> dict[str, Stored]:
    width, head = config.width, config.head_dim
    queries, keys = config.num_heads * head, config.num_kv_heads * head

    def norm(name: str, size: int = width) -> Stored:
        return Stored((f"{name}.weight",), (size,))

    def matrix(name: str, outputs: int, inputs: int) -> Stored:
        return Stored((f"{name}.weight",), (outputs, inputs), transposed=True)

    parts = {"attention_norm/scale": norm("input_layernorm")}
    for name, outputs in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        parts[f"attention/{name}/kernel"] = matrix(f"self_attn.{name}", outputs, width)
        if config.qkv_bias:
            parts[f"attention/{name}/bias"] = Stored((f"self_attn.{name}.bias",), (outputs,))
    parts["attention/o_proj/kernel"] = matrix("self_attn.o_proj", width, queries)
    if config.qk_norm:
        parts["attention/q_norm/scale"] = norm("self_attn.q_norm", head)
        parts["attention/k_norm/scale"] = norm("self_attn.k_norm", head)
    if config.post_norms:
        parts["attention_post_norm/scale"] = norm("post_attention_layernorm")
        parts["mlp_norm/scale"] = norm("pre_feedforward_layernorm")
        parts["mlp_post_norm/scale"] = norm("post_feedforward_layernorm")
    else:
        parts["mlp_norm/scale"] = norm("post_attention_layernorm")
    if not config.has_experts(index):
        for name in ("gate_proj", "up_proj"):
            parts[f"mlp/{name}/kernel"] = matrix(f"mlp.{name}", config.ffn_width, width)
        parts["mlp/down_proj/kernel"] = matrix("mlp.down_proj", width, config.ffn_width)
        return parts
    parts["mlp/router"] = matrix("mlp.gate", config.num_experts, width)
    for name in ("gate_proj", "up_proj", "down_proj"):
        shape = (config.expert_width, width)
        parts[f"mlp/{name}"] = Stored(
            tuple(f"mlp.experts.{e}.{name}.weight" for e in range(config.num_experts)),
            shape if name != "down_proj" else shape[::-1],
            transposed=True,
        )
    return parts
