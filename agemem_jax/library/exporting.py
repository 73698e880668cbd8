"""A policy as a model directory that other programs load."""

import os

from agemem_jax.models import decoder, hf_export
from agemem_jax.models.registry import BACKBONES
from agemem_jax.training import components
from agemem_jax.training.configuration.run_record import read_config
from agemem_jax.training.policy import describe_weights, restore_weights


def export(
    workdir: str | os.PathLike,
    output: str | os.PathLike,
    *,
    adapter: bool = False,
    before_rl: bool = False,
    checkpoint: str = "last",
    dtype: str = "bfloat16",
    max_shard_size: str = "5GB",
) -> None:
    """Writes a run's policy for transformers, vLLM and others.

    It is what `agemem-export` does: sharded safetensors, config, generation config and tokenizer
    with chat template. A LoRA run is merged into its base model, unless an adapter is asked for.

    Args:
      workdir: of the run.
      output: the directory to make.
      adapter: write the LoRA matrices alone, for PEFT.
      before_rl: the policy before reinforcement learning.
      checkpoint: whose weights: "last", "best", a step, a phase, or "phase/step".
      dtype: of the weights, one of `hf_export.DTYPES`.
      max_shard_size: of one file.

    Raises:
      FileNotFoundError: there is no run in `workdir`.
      ValueError: it has no such checkpoint, or no adapter.
    """
    config = read_config(workdir)
    policy = {"trained": not before_rl, "checkpoint": checkpoint}
    describe_weights(config, workdir, **policy)  # before anything is loaded
    if adapter and not config.model.lora_rank:
        raise ValueError("--adapter needs a run with model.lora_rank above 0; this one has none.")
    backbone = components.build_backbone(config)
    chat = components.build_chat(config, backbone)
    weights = restore_weights(config, backbone, workdir, **policy)
    if adapter:
        spec = BACKBONES.get(config.backbone)
        base = spec.repository if spec and spec.repository else config.backbone
        hf_export.export_adapter(output, backbone.config, weights.lora, base_model=base)
        return
    params = weights.params
    if weights.lora is not None:
        params = decoder.merge_lora(backbone.config, params, weights.lora)
    tokenizer = backbone.tokenizer
    tokenizer.chat_template = tokenizer.chat_template or chat.format.template
    hf_export.export_model(
        output, backbone.config, params, tokenizer,
        stop_id=chat.stop_id, end_ids=chat.stop_ids, dtype=dtype, max_shard_size=max_shard_size,
    )  # fmt: skip
