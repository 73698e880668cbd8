"""Compilation is most of what the tests wait for: its results are kept, as by the binaries."""

from agemem_jax.commands import cli

cli.keep_compiled_programs()
