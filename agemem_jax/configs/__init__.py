"""The configurations that come with the package, each a file with a `get_config`."""

import pathlib

FOLDER = pathlib.Path(__file__).parent
# By the name that --config takes.
FILES = {path.stem: path for path in sorted(FOLDER.glob("[!_]*.py"))}
