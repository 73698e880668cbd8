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
from agemem_jax.commands.output_flag import OUTPUT
from agemem_jax.commands.workdir import WORKDIR
from agemem_jax.library.exporting import export
from agemem_jax.models import hf_export

_ADAPTER = flags.DEFINE_bool("adapter", False, "Write the LoRA matrices as a PEFT adapter.")
_BEFORE = flags.DEFINE_bool("before_rl", False, "Export the policy before RL.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", list(hf_export.DTYPES), "Of the weights.")
_SHARD = flags.DEFINE_string("max_shard_size", "5GB", "Of one file.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    if not OUTPUT.value:
        raise app.UsageError("--output is missing; it names the directory to make.")
    if _BEFORE.value and CHECKPOINT.value != "last":
        raise app.UsageError("--before_rl and --checkpoint name two policies; give one of them.")
    export(
        WORKDIR.value, OUTPUT.value, adapter=_ADAPTER.value, before_rl=_BEFORE.value,
        checkpoint=CHECKPOINT.value, dtype=_DTYPE.value, max_shard_size=_SHARD.value,
    )  # fmt: skip
    logging.info("Wrote %s", OUTPUT.value)


def run():
    cli.run(main)
