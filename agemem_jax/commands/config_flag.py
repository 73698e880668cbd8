"""The flag --config: a configuration by its file, or by name if it comes with the package."""

import importlib.machinery
import importlib.util
import pathlib
import sys
import traceback

from absl import flags
from ml_collections import ConfigDict, config_flags

from agemem_jax import configs

flags.disclaim_key_flags()
_MODULE = "agemem_run_config"  # the name of the module that a file becomes


def define(default: str | None = None) -> flags.FlagHolder[ConfigDict]:
    """Defines --config for the calling program; --config.OPTION=VALUE overrides an option."""
    holder = config_flags.DEFINE_config_file(
        "config", None,
        f"Configuration: a file with get_config(), or one of {', '.join(configs.FILES)}.",
    )  # fmt: skip
    flag = flags.FLAGS["config"]
    flag.parser = _Parser()
    flags.set_default(holder, default)
    return holder


def find(name: str) -> pathlib.Path:
    """The file of a configuration that is given by name or by path."""
    path = configs.FILES.get(name) or pathlib.Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"--config is {name!r}, which is neither a file nor the name of a configuration that "
            f"comes with the package: {', '.join(configs.FILES)}."
        )
    return path


class _Parser(flags.ArgumentParser):
    """Reads NAME_OR_PATH[:ARGUMENT], where the argument is what `get_config` is given."""

    def parse(self, text: str) -> ConfigDict:
        name, *argument = text.split(":", 1)
        path = find(name)
        loader = importlib.machinery.SourceFileLoader(_MODULE, str(path))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(_MODULE, loader))
        sys.modules[_MODULE] = module  # where dataclasses look up what their annotations name
        try:
            loader.exec_module(module)
            config = module.get_config(*argument)
        except Exception as error:  # whatever the user's file does
            raise OSError(f"--config={text}: {_sentence(error, path)}") from error
        if not isinstance(config, ConfigDict):
            raise OSError(f"--config={text}: get_config() must return a ConfigDict.")
        return config.lock()

    def flag_type(self) -> str:
        return "configuration"


def _sentence(error: Exception, path: pathlib.Path) -> str:
    """What went wrong, and in which line of the file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == str(path)]  # fmt: skip
    where = f" (line {lines[-1]})" if lines else ""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{kind}{error}{where}"
