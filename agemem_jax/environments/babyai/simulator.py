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
PICKUP, DROP, TOGGLE, _DONE = 3, 4, 5, 6
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
            f"minigrid has no level {level!r} of BabyAI; one is named as in "
            "BabyAI-GoToRedBallGrey-v0."
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


def bot_steps(world: Any, most: int = 400) -> list[int]:
    """The steps of minigrid by which its own bot reaches the goal of a world; plays the world.

    A step that breaks an order (AgentBoard's rule lets one go on) does not stop it. Without any
    step the goal is reached already, which the world only tells after one.

    Args:
      world: to be played, such as a copy.
      most: steps until the bot is taken to be lost.

    Raises:
      LookupError: it does not reach the goal.
    """
    from minigrid.utils.baby_ai_bot import BabyAIBot

    steps = []
    with quiet():
        bot = BabyAIBot(world)
        for _ in range(most):
            bot.stack = _BoundedStack(bot.stack)
            try:
                step = int(bot.replan())
            except (AssertionError, IndexError, TypeError) as error:  # where the bot gives up
                raise LookupError("minigrid's bot finds no way.") from error
            if step == _DONE:
                return steps
            steps.append(step)
            _, reward, over, _, _ = world.step(step)
            if over and reward > 0:
                return steps
    raise LookupError(f"minigrid's bot does not reach the goal in {most} steps.")


class _BoundedStack(list):
    """The plan of the bot, which for some worlds would grow and shrink for ever."""

    left = 1000

    def append(self, subgoal):
        self.left -= 1
        if self.left < 0:
            raise LookupError("minigrid's bot goes round in circles.")
        super().append(subgoal)
