"""Compilation is most of what the tests wait for: its results are kept, as by the binaries."""

from experiments import cli

cli.keep_compiled_programs()
