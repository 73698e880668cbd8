"""What a command line of the training program asks for, without running it."""

from unittest import mock

from absl import flags

from agemem_jax.commands import config_flag, train  # noqa: F401  # the flags


def parse(*arguments):
    """The configuration of such a command line."""
    command_line, known = ["program", "--workdir=x", *arguments], set(flags.FLAGS)
    try:
        with mock.patch.object(
            config_flag.sys, "argv", command_line
        ):  # where overrides are looked up
            flags.FLAGS(command_line)
        return config_flag.CONFIG.value
    finally:
        for override in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, override)
