"""Lists the registered backbones: parameters, memory by dtype, and what is in the cache.

    agemem-backbones

A local directory or a repository id of a supported family works as well:
`--config.backbone=DIRECTORY` or `--config.backbone=OWNER/NAME`.
"""

import math

import rich
from absl import app
from rich import box
from rich import table as rich_table

from agemem_jax.commands import cli
from agemem_jax.models import hf_config, hub, weights_cache
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.hf_names import stored_parameters
from agemem_jax.models.registry import BACKBONES, BackboneSpec

_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


def count_parameters(config: DecoderConfig) -> int:
    """Parameters of a decoder, experts that a token does not pass through included."""
    return sum(math.prod(part.held_shape) for part in stored_parameters(config).values())


def _where(spec: BackboneSpec) -> str:
    if spec.repository is None:
        return "shipped"
    if spec.weight_set is not None and weights_cache.find(spec.weight_set):
        return "cached"
    return "cached" if hub.cached(spec.repository) else "-"


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    table = rich_table.Table(
        title="Memory of the weights in GiB by dtype",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    for name in ("backbone", "family", "parameters", *_BYTES):
        number = name not in ("backbone", "family")
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for name, spec in BACKBONES.items():
        count = count_parameters(spec.shape)
        sizes = [f"{count * each / 2**30:.2f}" for each in _BYTES.values()]
        family = hf_config.family_of(spec.shape)
        table.add_row(name, family, f"{count / 1e6:,.0f} M", *sizes, _where(spec))
    rich.print(table)


def run():
    cli.run(main)
