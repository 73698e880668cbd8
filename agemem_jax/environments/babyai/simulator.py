"""The worlds of minigrid, which are imported when one is first asked for.

A world here is the level without its wrappers (`env.unwrapped`). Whatever minigrid and pygame
print is thrown away.
"""

import contextlib
import functools
import io
import os
import warnings
from typing import Any

FORWARD, LEFT, RIGHT = 2, 0, 1  # minigrid's numbers
PICKUP, DROP, TOGGLE = 3, 4, 5
HEADINGS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up; y grows downwards
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
# What an older minigrid registered under a name: AgentBoard's GoToObjS6 had rooms of size 4.
_RENAMED = {"BabyAI-GoToObjS6-v0": "BabyAI-GoToObjS4-v0"}
_NO_LIMIT = 10**9  # steps; episodes are bounded by who plays them


@functools.cache
def _packages() -> tuple[Any, Any]:
    """gymnasium, and minigrid, whose import names the levels.

    Raises:
      ImportError: one is missing.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        with quiet():
            import gymnasium
            import minigrid
    except ModuleNotFoundError as error:
        raise ImportError(
            f"BabyAI needs the package {error.name}: pip install -r requirements-benchmarks.txt."
        ) from error
    return gymnasium, minigrid


def world(level: str, seed: int) -> tuple[Any, Any]:
    """The level at the start of the episode that `seed` names, and what is seen there.

    What is seen is minigrid's image: [column, row, (kind, colour, state)] of cells.

    Raises:
      ImportError: minigrid is not installed.
      ValueError: it has no such level.
    """
    gymnasium, _ = _packages()
    level = _RENAMED.get(level, level)
    if level not in gymnasium.registry or not level.startswith("BabyAI-"):
        raise ValueError(
            f"minigrid has no level {level!r} of BabyAI; one is named as in BabyAI-GoToRedBallGrey-v0."
        )
    with quiet():
        env = gymnasium.make(level, disable_env_checker=True).unwrapped
        seen, _ = env.reset(seed=seed)
    env.max_steps = _NO_LIMIT
    return env, seen["image"]


@contextlib.contextmanager
def quiet():
    """Nothing that is printed or warned of inside is seen."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
