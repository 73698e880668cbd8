"""Compilation is most of what the tests wait for: its results are kept, as by the binaries.

On a GPU what tests compute themselves is as exact as what they compare it with: not in TF32.
"""

import os

import jax

from agemem_jax.commands import cli

cli.keep_compiled_programs()
if "cuda" in os.environ.get("JAX_PLATFORMS", ""):
    jax.config.update("jax_default_matmul_precision", "highest")
