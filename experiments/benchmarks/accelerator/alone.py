"""Runs one part of the suite in this process; each case is a line of a file once it is measured.

python -m experiments.benchmarks.accelerator.alone MODULE.FUNCTION SIZES REPEATS FILE
"""

import dataclasses
import importlib
import json
import pathlib
import sys

from absl import logging

from agemem_jax.commands import cli
from agemem_jax.models.backends.cpu import keep_freed_memory
from experiments.benchmarks.accelerator import sizes


def main(function: str, name_of_sizes: str, repeats: str, path: str) -> None:
    logging.set_verbosity(logging.INFO)
    cli.keep_compiled_programs()
    keep_freed_memory()
    module, name = function.split(".")
    part = getattr(importlib.import_module(f"experiments.benchmarks.accelerator.{module}"), name)
    with pathlib.Path(path).open("w") as file:
        for case in part(sizes.BY_NAME[name_of_sizes], int(repeats)):
            file.write(json.dumps(dataclasses.asdict(case)) + "\n")
            file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
