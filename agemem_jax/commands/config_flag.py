"""The flag --config of the programs that have one, in `CONFIG`.

It takes a configuration by its file, or by name if it comes with the package.
"""

import difflib
import pathlib
import re
import sys
import traceback

from absl import flags
from ml_collections import ConfigDict, config_flags

from agemem_jax import configs
from agemem_jax.training.configuration import doors


class _Parser(flags.ArgumentParser):
    """Reads NAME_OR_PATH[:ARGUMENT], where the argument is what `get_config` is given.

    Errors are OSErrors, since absl shows ValueErrors of a parser together with the flag's text.
    """

    def parse(self, text: str) -> ConfigDict:
        _forget_overrides(text)
        name, *argument = text.split(":", 1)
        path = configs.find(name, "--config")
        try:
            config = configs.load(path, *argument)
        except Exception as error:  # whatever the user's file does
            raise OSError(f"--config={text}: {_sentence(error, path)}") from error
        if not isinstance(config, ConfigDict):
            raise OSError(f"--config={text}: get_config() must return a ConfigDict.")
        given = flags.FLAGS.read_flags_from_files(sys.argv, force_gnu=False)
        try:
            doors.follow_names(config, _given(given))
        except ValueError as error:
            raise OSError(str(error)) from error
        _check_overrides(config, given)
        return config.lock()

    def flag_type(self) -> str:
        return "configuration"


def _forget_overrides(text: str) -> None:
    """Where --config is given again, drops the flags that were defined for the one before."""
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        if flags.FLAGS[name].present:
            raise OSError(f"--config={text} comes behind --{name}, and would undo it.")
        delattr(flags.FLAGS, name)


def _given(argv: list[str]) -> dict[str, str]:
    """The options of a command line by name, with their texts."""
    given = {}
    for index, argument in enumerate(argv):
        match = re.fullmatch(r"--?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if match:
            following = argv[index + 1] if index + 1 < len(argv) else ""
            given[match[1]] = following if match[2] is None else match[2]
    return given


def _check_overrides(config: ConfigDict, argv: list[str]) -> None:
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        node, walked = config, ["config"]
        for part in match[1].split(".") if match else ():
            if not isinstance(node, ConfigDict):
                raise OSError(f"{'.'.join(walked)} has no options of its own, such as {part!r}.")
            if part not in node:
                close = difflib.get_close_matches(part, node, n=1)
                has = ", ".join(node) or "none"
                hint = f"did you mean {close[0]!r}?" if close else f"it has {has}."
                raise OSError(f"{'.'.join(walked)} has no option {part!r}; {hint}")
            node = node[part]
            walked.append(part)


def _sentence(error: Exception, path: pathlib.Path) -> str:
    """What went wrong, and in which line of the file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    where = f" (line {lines[-1]})" if lines else ""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    text = str(error.args[0] if error.args else error)
    text = re.sub(r" Other fields present: .*", "", text, flags=re.DOTALL)  # all of the config
    return f"{kind}{text.removeprefix("'")}{where}"


CONFIG: flags.FlagHolder[ConfigDict] = config_flags.DEFINE_config_file(
    "config", None,
    f"Configuration: a file with get_config(), or one of {', '.join(configs.FILES)}. "
    "--config.OPTION=VALUE changes one of its options.",
)  # fmt: skip
flags.FLAGS["config"].parser = _Parser()
