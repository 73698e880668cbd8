"""What an environment is: a plain class with `reset` and `step`, and what these return.

Nothing here or in an environment needs JAX: environments run in processes of their own
(`workers.py`), one instance for one episode.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Observation:
    """What `reset` returns.

    Attributes:
      text: what is seen first.
      instruction: the goal in words where only the environment knows it, and how actions are
        written. It stays in sight for the whole episode, while observations may be removed.
    """

    text: str
    instruction: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `step` returns.

    Attributes:
      text: what is seen after the action.
      progress: the part of the goal that has been reached, in [0, 1]; it never falls.
      done: whether the environment takes no more actions.
      won: whether the goal is reached; it ends the episode, and counts as progress 1.
      valid: whether the action was one that can be done here (grounding accuracy is the
        share of these).
    """

    text: str
    progress: float = 0.0
    done: bool = False
    won: bool = False
    valid: bool = True


class Environment(Protocol):
    """One instance plays one episode: `reset` once, then `step` until done.

    Options are the keyword arguments of the class, with annotations and defaults. Two methods
    more are looked for, and may be missing: `close()`, and `demonstration()`, the actions that
    reach the goal from where `reset` left it, for scripted play.

    One that is acted in by tools of its own has them in `tools`, `ToolSpec`s without handlers:
    a class attribute, or a class method that is given the options by keyword (None is no tools).
    Then it has `call(name, arguments) -> Outcome` in place of `step`.
    """

    def reset(self, seed: int) -> Observation | str:
        """Begins an episode, which follows from `seed`, and shows what is seen first."""
        ...

    def step(self, action: str) -> Outcome:
        """Does what `action` says, in the agent's words; what is no action is not `valid`."""
        ...

    def actions(self) -> Sequence[str]:
        """The actions that can be done now, asked for as "check available actions".

        May be missing, as in an environment that cannot list them.
        """
        ...
