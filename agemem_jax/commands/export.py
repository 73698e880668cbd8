"""Turns a checkpoint into a directory that transformers, vLLM and others load.

    agemem-export --workdir=runs/a --output=exported
    agemem-export --workdir=runs/a --output=adapter --adapter
    agemem-export --workdir=runs/a --output=exported --checkpoint=best

Writes a Hugging Face model directory: sharded safetensors, config, generation config and
tokenizer with chat template. A LoRA run is merged into its base model, or, with
--adapter, written as a PEFT adapter directory.
"""

from absl import app, flags, logging

from agemem_jax.commands import cli
from agemem_jax.commands.checkpoint_flag import CHECKPOINT
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.models import decoder, hf_export
from agemem_jax.models.registry import BACKBONES
from agemem_jax.training import components
from agemem_jax.training.configuration.run_record import read_config
from agemem_jax.training.policy import describe_weights, restore_weights

_OUTPUT = flags.DEFINE_string("output", None, "Directory to make.")
_ADAPTER = flags.DEFINE_bool("adapter", False, "Write the LoRA matrices as a PEFT adapter.")
_BEFORE = flags.DEFINE_bool("before_rl", False, "Export the policy before RL.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", list(hf_export.DTYPES), "Of the weights.")
_SHARD = flags.DEFINE_string("max_shard_size", "5GB", "Of one file.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    if not _OUTPUT.value:
        raise app.UsageError("--output is missing; it names the directory to make.")
    if _BEFORE.value and CHECKPOINT.value != "last":
        raise app.UsageError("--before_rl and --checkpoint name two policies; give one of them.")
    config = read_config(WORKDIR.value)
    describe_weights(  # before anything is loaded
        config, WORKDIR.value, trained=not _BEFORE.value, checkpoint=CHECKPOINT.value
    )
    if _ADAPTER.value and not config.model.lora_rank:
        raise ValueError("--adapter needs a run with model.lora_rank above 0; this one has none.")
    backbone = components.build_backbone(config)
    chat = components.build_chat(config, backbone)
    weights = restore_weights(
        config, backbone, WORKDIR.value, trained=not _BEFORE.value, checkpoint=CHECKPOINT.value
    )
    if _ADAPTER.value:
        spec = BACKBONES.get(config.backbone)
        base = spec.repository if spec and spec.repository else config.backbone
        hf_export.export_adapter(_OUTPUT.value, backbone.config, weights.lora, base_model=base)
    else:
        params = weights.params
        if weights.lora is not None:
            params = decoder.merge_lora(backbone.config, params, weights.lora)
        tokenizer = backbone.tokenizer
        tokenizer.chat_template = tokenizer.chat_template or chat.format.template
        hf_export.export_model(
            _OUTPUT.value, backbone.config, params, tokenizer,
            stop_id=chat.stop_id, end_ids=chat.stop_ids, dtype=_DTYPE.value,
            max_shard_size=_SHARD.value,
        )  # fmt: skip
    logging.info("Wrote %s", _OUTPUT.value)


def run():
    cli.run(main)
