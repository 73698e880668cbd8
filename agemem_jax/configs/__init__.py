"""The configurations that come with the package, each a file with a `get_config`."""

import os
import pathlib
import sys
import types

FOLDER = pathlib.Path(__file__).parent
# By the name that --config takes.
FILES = {path.stem: path for path in sorted(FOLDER.glob("[!_]*.py"))}
_MODULE = "agemem_run_config"  # the name of the module that a file becomes


def find(name: str | os.PathLike, where: str = "The configuration") -> pathlib.Path:
    """The file of a configuration that is given by name or by path.

    Args:
      name: of one in `FILES`, or a path.
      where: it was given, for the sentence.

    Raises:
      FileNotFoundError: there is none.
    """
    path = FILES.get(os.fspath(name)) or pathlib.Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{where} is {os.fspath(name)!r}, which is neither a file nor the name of one that "
            f"comes with the package: {', '.join(FILES)}."
        )
    return path


def load(name: str | os.PathLike, *arguments: str):
    """What the `get_config` of a file gives for these arguments: an `ml_collections.ConfigDict`.

    Raises:
      FileNotFoundError: there is no such file.
    """
    path = find(name)
    module = types.ModuleType(_MODULE)
    module.__file__ = str(path)
    sys.modules[_MODULE] = module  # where dataclasses look up what their annotations name
    # What the user names is a program of theirs, to be run.
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102
    return module.get_config(*arguments)
